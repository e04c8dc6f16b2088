"""A real Keystone, on loopback and over TLS.

    keystone_server.py DIRECTORY

Creates a database and keys in the directory, and serves Keystone with the certificate and key in `server.pem` there. Prints
`port=N` when it is ready. A test may change it in two ways:

- POST /v3/auth/tokens with the header `X-Test-Lifetime: SECONDS` issues a token of this lifetime.
- GET /-/counts tells how many tokens Keystone has issued and validated.
"""

import json
import multiprocessing
import os
import ssl
import sys
import threading
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import keystone.cmd.manage
import keystone.conf
from keystone.server.wsgi import initialize_public_application

CONFIG = """\
[DEFAULT]
log_file = {0}/keystone.log
use_stderr = false
[database]
connection = sqlite:///{0}/keystone.db
[fernet_tokens]
key_repository = {0}/fernet-keys
[credential]
key_repository = {0}/credential-keys
[cache]
enabled = false
[identity]
# Few rounds: a test logs in often.
password_hash_rounds = 4
"""


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Says nothing of clients that go away."""


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        """Writes no log of requests: Keystone has its own."""


class Wrapped:
    """Keystone, with the two changes for tests."""

    def __init__(self, keystone, settings):
        self.keystone, self.settings = keystone, settings
        self.lock = threading.Lock()
        self.counts = {"issued": 0, "validated": 0}

    def __call__(self, environ, start_response):
        what = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if what == ("GET", "/-/counts"):
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.counts).encode()]
        if what == ("GET", "/v3/auth/tokens"):
            self.counts["validated"] += 1
        if what != ("POST", "/v3/auth/tokens"):
            return self.keystone(environ, start_response)
        with self.lock:
            self.counts["issued"] += 1
            if lifetime := environ.get("HTTP_X_TEST_LIFETIME"):
                self.settings.set_override("expiration", int(lifetime), "token")
            try:
                return self.keystone(environ, start_response)
            finally:
                self.settings.clear_override("expiration", "token")


def manage(config, *command):
    """Runs a command of keystone-manage."""
    sys.argv = ["keystone-manage", "--config-file", str(config), *command]
    sys.exit(keystone.cmd.manage.main())


def prepare(place):
    """Writes the configuration, the database, the keys and the first account: admin, with the password in BOOTSTRAP."""
    config = place / "keystone.conf"
    config.write_text(CONFIG.format(place))
    for keys in ("fernet-keys", "credential-keys"):
        (place / keys).mkdir(mode=0o700)
    me = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    bootstrap = ["bootstrap", "--bootstrap-password", os.environ["BOOTSTRAP"]]
    for command in (["db_sync"], ["fernet_setup", *me], bootstrap):
        # Each command changes the state of its process. A fork starts in a tenth of the time of a new one.
        child = multiprocessing.get_context("fork").Process(target=manage, args=(config, *command))
        child.start()
        child.join()
        assert child.exitcode == 0, command
    return config


def main():
    place = Path(sys.argv[1]).resolve()
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(prepare(place))
    # Keystone reads the arguments, too.
    del sys.argv[1:]
    application = Wrapped(initialize_public_application(), keystone.conf.CONF)
    server = make_server("127.0.0.1", 0, application, Server, Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "server.pem")
    # The handshake happens in the thread of the connection, so that a client that sends nothing does not stop the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"port={server.server_port}", flush=True)
    server.serve_forever()


main()
