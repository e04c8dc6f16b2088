"""Millstream with the providers that need only files: static tokens, certificates, and keys of JSON Web Tokens."""

import asyncio
import datetime
import hashlib
import json
import secrets
import ssl
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from canary import remember
from check_keystone import is_over
from millstream import ROLES, Millstream
from streaming import CONTINUE, FORBIDDEN, Consume, Produce, refusal

ISSUER, AUDIENCE = "https://local.example/", "millstream"
# How soon after a reload a rule must count.
RELOAD_SECONDS = 1


class Files:
    def __init__(self, authority):
        place = authority.place
        self.authority = authority
        self.tokens, self.certificates, self.keys = (place / name for name in ("tokens", "certificates", "keys.json"))
        self.static = {name: remember("ms_" + secrets.token_urlsafe(32)) for name in ("writer", "reader", "operator")}
        self.write()
        self.certificates.write_text("dns:app.example alpha produce,consume:orders*\n"
                                     "uri:spiffe://local.example/reader beta consume:*\n"
                                     "cn:Operator * all:*\n")
        self.signing = {"ES256": ec.generate_private_key(ec.SECP256R1()), "EdDSA": ed25519.Ed25519PrivateKey.generate()}
        algorithms = jwt.algorithms.get_default_algorithms()
        public = [{**json.loads(algorithms[name].to_jwk(key.public_key())), "alg": name, "kid": name} for name, key in self.signing.items()]
        self.keys.write_text(json.dumps({"keys": public}))

    def write(self, without=(), **rules):
        rules = {"writer": "alpha produce:orders*", "reader": "alpha,beta consume:orders*", "operator": "* all:*"} | rules
        lines = (f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()} {rules[name]}\n"
                 for name, token in self.static.items() if name not in without)
        self.tokens.write_text("# Applications.\n\n" + "".join(lines))
        self.tokens.chmod(0o600)

    def token(self, algorithm="ES256", **claims):
        """Makes a token. A claim that is None is left out."""
        now = int(time.time())
        all_claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "app", "exp": now + 600, "projects": "alpha", "roles": "member"} | claims
        present = {name: value for name, value in all_claims.items() if value is not None}
        return remember(jwt.encode(present, self.signing[algorithm], algorithm, headers={"kid": algorithm}))

    def client(self, *names, common_name=None, lifetime=3600):
        """Returns a TLS context with a certificate of these names, or without one."""
        context = ssl.create_default_context(cafile=self.authority.file)
        if names or common_name:
            ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=lifetime)
            certificate = self.authority.ca.issue_cert(*names, common_name=common_name, not_after=ends)
            with certificate.private_key_and_cert_chain_pem.tempfile() as path:
                context.load_cert_chain(path)
        return context


def start(binary, files):
    files.authority.server(files.authority.place)
    pem = files.authority.place / "server.pem"
    return Millstream(binary, files.authority.place, "files", auth="static,jwt,mtls", auth_roles=ROLES, auth_static_file=str(files.tokens),
                      auth_mtls_file=str(files.certificates), auth_jwt_keys=str(files.keys), auth_jwt_issuer=ISSUER,
                      auth_jwt_audience=AUDIENCE, tls_listen="127.0.0.1:0", tls_certificates=f"{pem}:{pem}", tls_client_auth="optional",
                      tls_client_ca=str(files.authority.file))


async def check(server, files):
    await static(server, files)
    await claims(server, files)
    await certificates(server, files)
    await reloads(server, files)


async def setup(connecting, kind, queue):
    """Returns the status of an operation's setup."""
    async with connecting as peer:
        operation = await kind.open(peer, queue)
        await operation.end()
        return operation.setup.code


async def static(server, files):
    writer, reader, operator = files.static.values()
    for name, expected, connecting in [
        ("a token", 101, server.connect(writer)),
        ("another project", 403, server.connect(writer, project="beta")),
        ("one of two projects", 101, server.connect(reader, project="beta")),
        ("which project?", 400, server.connect(reader)),
        ("any project", 101, server.connect(operator, project="gamma")),
        ("a guess", 401, server.connect(writer[:-1])),
        ("the digest in place of the token", 401, server.connect("sha256:" + hashlib.sha256(writer.encode()).hexdigest())),
    ]:
        assert (status := await refusal(connecting)) == expected, f"{name}: {status}"
    for token, kind, queue, expected in [
        (writer, Produce, "orders", CONTINUE), (writer, Produce, "orders.eu", CONTINUE), (writer, Produce, "order", FORBIDDEN),
        (writer, Produce, "orders/0", CONTINUE), (writer, Consume, "orders", FORBIDDEN), (reader, Consume, "orders", CONTINUE),
        (reader, Produce, "orders", FORBIDDEN),
    ]:
        got = await setup(server.connect(token, project="alpha"), kind, queue)
        assert got == expected, f"{kind.__name__} {queue}: {got}"
    print("static: tokens, projects and rules")


async def claims(server, files):
    now = int(time.time())
    for number, (name, expected, token) in enumerate([
        ("ES256", 101, files.token()),
        ("EdDSA", 101, files.token("EdDSA")),
        ("several audiences", 101, files.token(aud=["other", AUDIENCE])),
        ("expired", 401, files.token(exp=now - 60)),
        ("no exp", 401, files.token(exp=None)),
        ("exp is a text", 401, files.token(exp=str(now + 600))),
        ("not valid yet", 401, files.token(nbf=now + 300)),
        ("no iss", 401, files.token(iss=None)),
        ("another issuer", 401, files.token(iss=ISSUER + "x")),
        ("no aud", 401, files.token(aud=None)),
        ("another audience", 401, files.token(aud="other")),
        ("no sub", 401, files.token(sub=None)),
        ("no project", 403, files.token(projects=None)),
    ]):
        status = await refusal(server.connect(token, source=f"127.0.4.{number + 1}"))
        assert status == expected, f"{name}: {status}"
    print("jwt: every claim that must be there, from keys in a file")


async def certificates(server, files):
    def connect(*names, token=None, project=None, **options):
        return server.connect(token, project=project, port=server.secure_port, trust=files.client(*names, **options))

    for name, expected, connecting in [
        ("a DNS name", 101, connect("app.example")),
        ("its project", 101, connect("app.example", project="alpha")),
        ("another project", 403, connect("app.example", project="beta")),
        ("a common name", 101, connect(common_name="Operator", project="gamma")),
        ("a name of another kind", 401, connect("operator")),
        ("not listed", 401, connect("other.example")),
        ("no certificate", 401, connect()),
        ("a token in place of the certificate", 101, connect(token=files.static["writer"])),
        ("a bad token beside a good certificate", 401, connect("app.example", token="guess")),
    ]:
        assert (status := await refusal(connecting)) == expected, f"{name}: {status}"
    assert await setup(connect("app.example"), Produce, "orders") == CONTINUE
    assert await setup(connect("app.example"), Produce, "other") == FORBIDDEN
    async with connect("app.example", lifetime=3) as peer:
        await is_over(peer, await Produce.open(peer, "orders"), 5, "token expired")
    print("mtls: names, projects and rules; a certificate that expires ends its connection")


async def reloads(server, files):
    writer, reader, operator = files.static.values()
    async with server.connect(writer) as peer, server.connect(reader, project="alpha") as other, server.connect(operator) as third:
        produce, consume, stays = await Produce.open(peer, "orders"), await Consume.open(other, "orders"), await Consume.open(third, "orders")
        # Half of a file.
        whole = files.tokens.read_text()
        for bad, why in ((whole[:-1], "no line break"), ("", "is empty")):
            files.tokens.write_text(bad)
            await asyncio.to_thread(server.line, why)
            assert await refusal(server.connect(writer)) == 101, "a file that may be half written counts"
        # The writer may produce no longer; the reader is gone.
        files.write(without=("reader",), writer="alpha consume:orders*")
        began = time.monotonic()
        server.reload()
        ended = await produce.ended()
        assert ended and ended.code == FORBIDDEN, ended and vars(ended)
        assert (took := time.monotonic() - began) < RELOAD_SECONDS, f"a rule counts {took:.1f} s after the reload"
        again = await Consume.open(peer, "orders")
        assert again.setup.code == CONTINUE, "a smaller grant closes the connection"
        await again.end()
        await is_over(other, consume, RELOAD_SECONDS, "token revoked")
        took = time.monotonic() - began
        assert await refusal(server.connect(reader, project="alpha")) == 401
        await stays.end()
    print(f"static: rules that were removed end operations with 403, removed tokens with 401, {took * 1000:.0f} ms after the reload")
