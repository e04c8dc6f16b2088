"""Tests authentication with real providers: Keystone, and an OpenID provider. Prints each check that passes; stops at the first failure.

    python tests/independent/identity BINARY

| file | one concept |
| --- | --- |
| `canary` | the secrets of the test, which must not appear in anything that the server writes or shows |
| `providers` | starts the providers, and gets tokens from them |
| `keystone_server`, `oidc_server` | the providers |
| `millstream` | the server under test |
| `streaming` | a client of the streaming protocol |
| `check_keystone`, `check_jwt`, `check_files` | what must hold with provider keystone, with jwt, and with those that need only files |
| `documented` | the examples of docs/security.md that need a provider |
"""

import asyncio
import sys
import tempfile
import time

import jwt

import canary
import check_files
import check_jwt
import check_keystone
import documented
from providers import AUDIENCE, Authority, Keystone, Oidc


def providers_work(keystone, oidc):
    """Checks what the other checks rely on, without Millstream."""
    token = keystone.log_in("reader")
    told = keystone.validate(token)
    assert told["project"]["name"] == "alpha" and [role["name"] for role in told["roles"]] == ["reader"], told
    keystone.revoke(token)
    assert keystone.validate(token) == 404
    short = keystone.log_in("member", lifetime=3)
    assert keystone.validate(short)["user"]["id"] == keystone.users["member"]
    deadline = time.monotonic() + 10
    while keystone.validate(short) != 404:
        assert time.monotonic() < deadline, "a token does not expire"
    for algorithm in ("ES256", "RS256"):
        token = oidc.token("member", algorithm=algorithm)
        head = jwt.get_unverified_header(token)
        keys = jwt.PyJWKSet.from_dict({"keys": oidc.keys()})
        claims = jwt.decode(token, keys[head["kid"]].key, [algorithm], audience=AUDIENCE, issuer=oidc.url)
        assert head["alg"] == algorithm and claims["projects"] == ["alpha", "beta"] and claims["roles"] == ["member"], claims
    oidc.rotate()
    assert len(oidc.keys()) == 4, "the old keys are gone"
    oidc.rotate(forget=True)
    assert len(oidc.keys()) == 2, "the old keys are still there"
    print("Keystone and oidc-provider: issue, validate, revoke, expire and rotate as the tests need it")


async def checked(server, checks):
    """Runs the checks of one server, and then looks for secrets in what it has written and shows."""
    try:
        await checks
        bytes_shown = server.check_secrets()
        assert server.audit(), "the audit log is empty"
    except Exception:
        print("".join(server.written[-40:]), file=sys.stderr)
        raise
    finally:
        server.stop()
    print(f"  none of {canary.count():,} parts of secrets in {bytes_shown:,} bytes that the server has written and shows")


async def run(binary, authority, keystone, oidc):
    await checked(server := check_jwt.start(binary, authority, oidc), check_jwt.check(server, oidc))
    fetched = oidc.count("fetched")
    await checked(server := check_jwt.start(binary, authority, oidc), check_jwt.strangers(server, oidc, fetched))
    await checked(server := check_keystone.start(binary, authority, keystone), check_keystone.check(server, keystone))
    files = check_files.Files(authority)
    await checked(server := check_files.start(binary, files), check_files.check(server, files))


def main():
    with tempfile.TemporaryDirectory() as place:
        authority = Authority(place)
        providers = [Keystone(authority), Oidc(authority)]
        try:
            for provider in providers:
                provider.start()
            for provider in providers:
                provider.ready()
            providers_work(*providers)
            asyncio.run(run(sys.argv[1], authority, *providers))
            documented.check(sys.argv[1], authority, *providers)
        finally:
            for provider in providers:
                provider.stop()


main()
