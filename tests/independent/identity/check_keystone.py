"""Millstream with provider keystone."""

import asyncio
import base64
import os
import time

from millstream import ROLES, SUBPROTOCOL, Millstream
from providers import in_thread
from streaming import CONTINUE, FORBIDDEN, UNAUTHORIZED, Consume, Produce, closed, refusal

# Keystone takes 100 ms or more to validate a token, one after the other, and the server asks again about each that it remembers.
RECHECK_SECONDS = 6
# How long Keystone, which has just started, may take to answer the first question.
FIRST_SECONDS = 60
# How soon after its recheck a credential must have ended.
GRACE_SECONDS = 5
# How long Keystone does not answer, and how long a newcomer may wait then.
HANG_SECONDS = float(os.environ.get("TESTS_HANG_SECONDS", "10"))
NEWCOMER_SECONDS = 3
# How long a message of a connected client may take at any time.
STORED_SECONDS = 1


def start(binary, authority, keystone):
    account = authority.place / "account"
    account.write_text(f"username = millstream\nuser_domain_id = default\npassword = {keystone.password}\n"
                       "project_name = service\nproject_domain_id = default\n")
    account.chmod(0o600)
    return Millstream(binary, authority.place, "keystone", auth="keystone", auth_roles=ROLES, auth_keystone_url=keystone.url + "/v3",
                      auth_keystone_credentials=str(account), auth_ca=str(authority.file), auth_recheck=f"{RECHECK_SECONDS}s")


async def check(server, keystone):
    member = keystone.log_in("member")
    await admission(server, keystone, member)
    await rights(server, keystone, member)
    await revocation(server, keystone)
    await expiry(server, keystone)
    await renewal(server, keystone, member)
    await hanging(server, keystone)


async def admission(server, keystone, token):
    offer = "queuing-streaming.bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    alpha, beta = keystone.projects["alpha"], keystone.projects["beta"]
    expired = keystone.log_in("member", lifetime=1)
    await asyncio.sleep(1.1)
    header = {"X-Auth-Token": token}
    # The first question waits until Keystone has logged the server in, which a busy machine does not always do in time.
    async with asyncio.timeout(FIRST_SECONDS):
        while await refusal(server.connect(token)) == 503:
            await asyncio.sleep(0.2)
    for name, expected, connecting in [
        ("Authorization", 101, server.connect(token)),
        ("X-Auth-Token", 101, server.connect(headers=header)),
        ("both", 101, server.connect(token, headers=header)),
        ("an offer", 101, server.connect(offers=[offer])),
        ("its project", 101, server.connect(token, project=alpha)),
        ("no token", 401, server.connect()),
        ("not a token", 401, server.connect("guess")),
        ("expired", 401, server.connect(expired)),
        ("different tokens", 400, server.connect("guess", headers=header)),
        ("two offers", 400, server.connect(offers=[offer, offer + "AAAA"])),
        ("in the query", 401, server.connect(query=f"?token={token}")),
        ("the other project", 403, server.connect(token, project=beta)),
        ("no such project", 403, server.connect(token, project="gamma")),
    ]:
        assert (status := await refusal(connecting)) == expected, f"{name}: {status}"
    async with server.connect(offers=[offer]) as peer:
        assert peer.subprotocol == SUBPROTOCOL, "the server shows the token"
    print("Keystone: valid, expired and unknown tokens, and projects")


async def rights(server, keystone, member):
    async with server.connect(member) as peer:
        produce = await Produce.open(peer, "orders")
        assert produce.setup.code == CONTINUE and 3500 < produce.setup.expires <= 3600, vars(produce.setup)
        produce.produce(b"one")
        await produce.all_stored()
        await produce.end()
    async with server.connect(keystone.log_in("reader")) as peer:
        consume = await Consume.open(peer, "orders")
        await consume.received(1)
        await consume.end()
        assert consume.payloads == [b"one"]
        for queue in ("orders", "missing"):
            refused = await Produce.open(peer, queue)
            assert refused.setup.code == FORBIDDEN, vars(refused.setup)
            await refused.end()
        assert (missing := await Consume.open(peer, "missing")).setup.code == 404, "a reader creates a queue"
        await missing.end()
    async with server.connect(keystone.log_in("none")) as peer:
        for kind in (Produce, Consume):
            for queue in ("orders", "missing"):
                refused = await kind.open(peer, queue)
                assert refused.setup.code == FORBIDDEN, f"{kind.__name__} {queue}: {refused.setup.code}"
                await refused.end()
    print("Keystone: roles; what is forbidden looks alike whether it exists or not")


async def is_over(peer, operation, seconds, reason):
    """Waits until a grant has ended: the operation with 401, the connection with 1008."""
    began = time.monotonic()
    status = await operation.ended()
    assert status and status.code == UNAUTHORIZED, status and vars(status)
    assert (await closed(peer)) == (1008, reason), (peer.close_code, peer.close_reason)
    took = time.monotonic() - began
    assert took < seconds, f"{reason} after {took:.1f} s"
    return took


async def revocation(server, keystone):
    revoked, idle, kept = (keystone.log_in("member") for _ in range(3))
    async with server.connect(revoked) as peer, server.connect(kept) as other:
        operation, stays = await Consume.open(peer, "orders"), await Consume.open(other, "orders")
        # A token that the server remembers, but no connection uses.
        assert (status := await refusal(server.connect(idle))) == 101, status
        await in_thread(keystone.revoke, idle)
        began = time.monotonic()
        await in_thread(keystone.revoke, revoked)
        await is_over(peer, operation, RECHECK_SECONDS + GRACE_SECONDS, "token revoked")
        took = time.monotonic() - began
        for name, token in (("in use", revoked), ("idle", idle)):
            deadline = time.monotonic() + RECHECK_SECONDS + GRACE_SECONDS
            while (status := await refusal(server.connect(token, source="127.0.1.1"))) != 401:
                assert status == 101 and time.monotonic() < deadline, f"a revoked token, {name}: {status}"
                await asyncio.sleep(0.2)
        await stays.received(1)
        await stays.end()
    print(f"Keystone: a revoked token ends its connection after {took:.1f} s, and no other")


async def expiry(server, keystone):
    token = await in_thread(keystone.log_in, "member", lifetime=4)
    async with server.connect(token) as peer, server.connect(token) as idle:
        operation = await Produce.open(peer, "orders")
        operation.produce(b"before the end")
        await operation.until(lambda: operation.renewal)
        assert operation.renewal.code == CONTINUE and operation.renewal.expires <= 1, "no notice of the end"
        await is_over(peer, operation, 5, "token expired")
        assert operation.stored == 1, "what was accepted is not spoken for"
        assert (await closed(idle)) == (1008, "token expired"), "a connection without an operation"
    print("Keystone: a token that expires ends its connections with 401 and 1008, after what was accepted")


async def renewal(server, keystone, member):
    queue, numbers, renewed = "renewed", [], 0
    async with server.connect(member) as peer:
        produce = await Produce.open(peer, queue)
        for name, token, expected in (("of another principal", keystone.log_in("reader"), FORBIDDEN), ("bad", "guess", UNAUTHORIZED)):
            refused = await produce.renew(token)
            assert refused.code == expected, f"a token, {name}: {refused.code}"
        assert (answer := await produce.renew(member)).code == CONTINUE, f"a renewal after refused ones: {answer.code}"
        await produce.end()
    tokens = [await in_thread(keystone.log_in, "member", lifetime=seconds) for seconds in (8, 12, 60)]
    # When to send the second and the third token, each well before the one in force ends.
    began, times = time.monotonic(), [3, 7]
    async with server.connect(tokens.pop(0)) as peer, server.connect(member) as reading:
        produce, consume = await Produce.open(peer, queue), await Consume.open(reading, queue)
        while (now := time.monotonic() - began) < 12:
            numbers += range(len(numbers), len(numbers) + 50)
            produce.produce(*(b"%d" % number for number in numbers[-50:]))
            await produce.all_stored()
            if times and now > times[0]:
                answer = await produce.renew(tokens.pop(0))
                assert answer.code == CONTINUE and answer.expires >= 2, vars(answer)
                renewed, times = renewed + 1, times[1:]
            await asyncio.sleep(0.01)
        await produce.end()
        await consume.received(len(numbers))
        await consume.end()
    assert renewed == 2, renewed
    assert consume.payloads == [b"%d" % number for number in numbers], "lost, repeated or reordered"
    print(f"Keystone: {renewed} renewals in band lose none of {len(numbers):,} messages; tokens of others are refused")


async def hanging(server, keystone):
    known = await in_thread(keystone.log_in, "member")
    strangers = [await in_thread(keystone.log_in, "member") for _ in range(4)]
    async with server.connect(known) as peer:
        produce = await Produce.open(peer, "orders")
        keystone.hang()
        try:
            until, slowest, newcomers = time.monotonic() + HANG_SECONDS, 0, []
            while time.monotonic() < until:
                began = time.monotonic()
                produce.produce(b"goes on")
                await produce.all_stored()
                slowest = max(slowest, time.monotonic() - began)
                if strangers:
                    newcomers.append(asyncio.create_task(timed(refusal(server.connect(strangers.pop())))))
                await asyncio.sleep(0.1)
            for status, took in await asyncio.gather(*newcomers):
                assert status == 503 and took < NEWCOMER_SECONDS + 0.5, f"a newcomer: {status} after {took:.1f} s"
            status, took = await timed(refusal(server.connect(known)))
            assert status == 101 and took < 1, f"a known token: {status} after {took:.1f} s"
        finally:
            keystone.go_on()
        assert slowest < STORED_SECONDS, f"a connected client waited for {slowest:.2f} s"
        deadline = time.monotonic() + 20
        while await refusal(server.connect(known)) != 101 or await refusal(server.connect(keystone.log_in("reader"))) != 101:
            assert time.monotonic() < deadline, "newcomers are refused after Keystone has come back"
            await asyncio.sleep(0.2)
        await produce.end()
    slow = max(took for _, took in (task.result() for task in newcomers))
    print(f"Keystone hangs for {HANG_SECONDS:.0f} s: newcomers get 503 within {slow:.1f} s, messages are stored within {slowest * 1000:.0f} ms")


async def timed(doing):
    began = time.monotonic()
    return await doing, time.monotonic() - began
