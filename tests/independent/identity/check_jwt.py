"""Millstream with provider jwt, and an OpenID provider."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from canary import remember
from check_keystone import is_over
from millstream import ROLES, SUBPROTOCOL, Millstream
from providers import AUDIENCE, in_thread
from streaming import CONTINUE, FORBIDDEN, Consume, Produce, refusal

# Tokens with key ids that nobody knows, and how many of them an address may try at once.
STRANGERS, FREE = 10_000, 10
# The first fetch at the server's start, and one because of the strangers.
FETCHES_MAX = 2


def start(binary, authority, oidc):
    return Millstream(binary, authority.place, "jwt", auth="jwt", auth_roles=ROLES, auth_jwt_keys=oidc.url + "/jwks",
                      auth_jwt_issuer=oidc.url, auth_jwt_audience=AUDIENCE, auth_ca=str(authority.file))


async def check(server, oidc):
    await admission(server, oidc)
    await expiry(server, oidc)
    await forgery(server, oidc)
    await rotation(server, oidc)


async def admission(server, oidc):
    for name, expected, connecting in [
        ("ES256", 101, server.connect(oidc.token("reader"))),
        ("RS256", 101, server.connect(oidc.token("reader", algorithm="RS256"))),
        ("one of two projects", 101, server.connect(oidc.token("member"), project="beta")),
        ("which project?", 400, server.connect(oidc.token("member"))),
        ("a foreign project", 403, server.connect(oidc.token("reader"), project="beta")),
        ("another audience", 401, server.connect(oidc.token("reader", audience="https://other.example/"))),
        ("no token", 401, server.connect()),
    ]:
        assert (status := await refusal(connecting)) == expected, f"{name}: {status}"
    for client, kind, expected in [("member", Produce, CONTINUE), ("reader", Consume, CONTINUE), ("reader", Produce, FORBIDDEN),
                                   ("none", Produce, FORBIDDEN), ("none", Consume, FORBIDDEN)]:
        async with server.connect(oidc.token(client), project="alpha") as peer:
            operation = await kind.open(peer, "orders")
            assert operation.setup.code == expected, f"{client}, {kind.__name__}: {operation.setup.code}"
            await operation.end()
    print("OpenID: ES256 and RS256, audience, projects and roles")


async def expiry(server, oidc):
    token = await in_thread(oidc.token, "reader", lifetime=3)
    async with server.connect(token) as peer:
        await is_over(peer, await Consume.open(peer, "orders"), 4, "token expired")
    print("OpenID: a connection ends with its token")


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def made(header, claims, sign=lambda message: b""):
    """Makes a token by hand, because libraries refuse to make bad ones."""
    message = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return remember(f"{message}.{base64url(sign(message.encode()))}")


class Attacker:
    """Publishes a key. Counts who asks for it."""

    def __enter__(self):
        attacker, self.asked = self, 0
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        self.public = {**public, "kid": "mine", "alg": "ES256", "use": "sig"}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                attacker.asked += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"keys": [attacker.public]}).encode())

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


async def forgery(server, oidc):
    good = await in_thread(oidc.token, "member", algorithm="RS256")
    claims = jwt.decode(good, options={"verify_signature": False})
    rsa, elliptic = ({key["alg"]: key for key in oidc.keys()}[name] for name in ("RS256", "ES256"))
    public = jwt.PyJWK(rsa).key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def hmac_with(key):
        return lambda message: hmac.new(key, message, hashlib.sha256).digest()

    with Attacker() as attacker:
        def own(message):
            return jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(message, attacker.key)

        head, payload, signature = good.split(".")
        header = jwt.get_unverified_header(good)
        kid = rsa["kid"]
        tokens = {
            "alg=none": made({"alg": "none", "typ": "JWT", "kid": kid}, claims),
            "alg=None": made({"alg": "None", "kid": kid}, claims),
            "no alg": made({"kid": kid}, claims),
            "HS256 with the public key (PEM)": made({"alg": "HS256", "kid": kid}, claims, hmac_with(public)),
            "HS256 with the public key (JWK)": made({"alg": "HS256", "kid": kid}, claims, hmac_with(json.dumps(rsa).encode())),
            "HS256 with the modulus": made({"alg": "HS256", "kid": kid}, claims, hmac_with(rsa["n"].encode())),
            "HS256 with an empty key": made({"alg": "HS256", "kid": kid}, claims, hmac_with(b"")),
            "jku": made({"alg": "ES256", "kid": "mine", "jku": attacker.url}, claims, own),
            "jku and a known kid": made({"alg": "ES256", "kid": elliptic["kid"], "jku": attacker.url}, claims, own),
            "x5u": made({"alg": "ES256", "kid": "mine", "x5u": attacker.url}, claims, own),
            "jwk": made({"alg": "ES256", "kid": "mine", "jwk": attacker.public}, claims, own),
            "another key with a known kid": made({"alg": "ES256", "kid": elliptic["kid"]}, claims, own),
            "the algorithm of another key": made({"alg": "ES256", "kid": kid}, claims, own),
            "a good signature of other claims": remember(f"{head}.{base64url(json.dumps({**claims, 'sub': 'root'}).encode())}.{signature}"),
            "no signature": f"{head}.{payload}.",
            "crit": made({**header, "crit": ["b64"], "b64": False}, claims, own),
            "two parts": f"{head}.{payload}",
            "five parts": f"{good}.{payload}.{signature}",
        }
        for number, (name, token) in enumerate(tokens.items()):
            # Each from an address of its own, so that none is refused because of the others.
            status = await refusal(server.connect(token, project="alpha", source=f"127.0.2.{number + 1}"))
            assert status == 401, f"{name}: {status}"
        assert attacker.asked == 0, "the server asked the attacker for keys"
    assert await refusal(server.connect(good, project="alpha")) == 101
    print(f"OpenID: {len(tokens)} forged tokens are refused, and nobody asks an attacker for keys")


async def rotation(server, oidc):
    old = await in_thread(oidc.token, "reader")
    async with server.connect(old) as peer:
        consume = await Consume.open(peer, "orders")
        await in_thread(oidc.rotate)
        assert await refusal(server.connect(await in_thread(oidc.token, "reader"))) == 101, "a token with new keys"
        assert await refusal(server.connect(await in_thread(oidc.token, "reader"))) == 101, "another one"
        assert await refusal(server.connect(old)) == 101, "a token with old keys"
        await consume.end()
    print("OpenID: tokens with new keys are accepted at once, old ones further")


async def strangers(server, oidc, fetched):
    """Shows key ids that nobody knows to a server that has just started. `fetched` is what the provider had counted before."""
    claims = {"iss": oidc.url, "aud": AUDIENCE, "sub": "x", "exp": int(time.time()) + 600, "projects": ["alpha"], "roles": ["member"]}
    began, counts, signature = time.monotonic(), {}, secrets.token_bytes(64)
    addresses = iter(f"127.1.{number >> 8}.{number & 255}" for number in range(STRANGERS // FREE))

    async def stranger():
        for source in addresses:
            for _ in range(FREE):
                token = made({"alg": "ES256", "kid": secrets.token_hex(8)}, claims, lambda _: signature)
                status = await shake_hands(server.port, source, token)
                counts[status] = counts.get(status, 0) + 1

    valid, client = await in_thread(oidc.token, "reader"), 0
    flood = asyncio.gather(*(stranger() for _ in range(50)))
    while not flood.done():
        assert await refusal(server.connect(valid)) == 101, "a client with a valid token"
        client += 1
        await asyncio.sleep(0.05)
    await flood
    took = time.monotonic() - began
    assert sum(counts.values()) == STRANGERS and counts.get(101, 0) == 0, counts
    assert set(counts) <= {401, 429, 503}, counts
    fetches = await in_thread(oidc.count, "fetched") - fetched
    assert 1 <= fetches <= FETCHES_MAX, f"{fetches} fetches"
    # One address more often than it may.
    guesses = (made({"alg": "none", "kid": str(number)}, claims) for number in range(FREE + 5))
    statuses = [await shake_hands(server.port, "127.0.3.1", guess) for guess in guesses]
    assert statuses[:FREE] == [401] * FREE and 429 in statuses[FREE:], statuses
    assert await refusal(server.connect(valid, source="127.0.3.1")) == 101, "a known token is throttled"
    print(f"OpenID: {STRANGERS:,} unknown key ids in {took:.1f} s ({counts}) cause {fetches} fetches; {client} valid clients connect meanwhile")


async def shake_hands(port, source, token):
    """Returns the status of a handshake. In a fifth of the time that `websockets` takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    writer.write(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
                 f"Authorization: Bearer {token}\r\n\r\n".encode())
    status = int((await asyncio.wait_for(reader.readline(), 30)).split()[1])
    writer.close()
    return status
