"""The server under test."""

import json
import queue
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import websockets

import canary

SUBPROTOCOL = "queuing-streaming.v1"

# What the roles of both providers may do.
ROLES = "reader = consume:*; member = produce,consume,claim:*"


class Millstream:
    """A server with these settings."""

    def __init__(self, binary, place, name, **settings):
        self.binary, self.config = binary, place / f"{name}.toml"
        self.settings = {"listen": "127.0.0.1:0", "cores": "0", "store": "memory", "log": "millstream=debug,warn"} | settings
        self.write()
        self.lines, self.written = queue.Queue(), []
        command = [binary, "serve", "--config", self.config]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        line = self.line("millstream serves")
        self.port = int(re.search(r" listen=127\.0\.0\.1:(\d+)", line)[1])
        self.control = int(re.search(r"control=127\.0\.0\.1:(\d+)", line)[1])
        secure = re.search(r"tls_listen=127\.0\.0\.1:(\d+)", line)
        self.secure_port = secure and int(secure[1])

    def write(self):
        # A text in JSON is one in TOML, too.
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items()))

    def read(self):
        for line in self.process.stderr:
            self.written.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def line(self, text):
        """Waits for a line of the log with this text."""
        while (line := self.lines.get(timeout=30)) is not None:
            if text in line:
                return line
        raise AssertionError(f"the server ended without {text!r}:\n" + "".join(self.written[-20:]))

    def reload(self, **settings):
        """Changes settings of the running server."""
        self.settings |= settings
        self.write()
        self.process.send_signal(signal.SIGHUP)

    def page(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.control}{path}", timeout=30) as answer:
                # /live never ends.
                return answer.read1(1 << 20).decode() if path == "/live" else answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    def connect(self, token=None, *, project=None, source="127.0.0.1", headers=(), offers=(), port=None, trust=None, query=""):
        """Connects from a loopback address. The failures of each address are throttled apart."""
        sent = dict(headers)
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if project is not None:
            sent["X-Project-Id"] = project
        scheme, port = ("wss", port) if trust else ("ws", self.port)
        return websockets.connect(
            f"{scheme}://127.0.0.1:{port}/{query}", additional_headers=sent, subprotocols=[SUBPROTOCOL, *offers], proxy=None,
            ssl=trust, local_addr=(source, 0), open_timeout=30, ping_interval=None, max_size=None)

    def check_secrets(self):
        """Fails if a secret appears in anything that the server writes or shows."""
        check = subprocess.run([self.binary, "serve", "--check-config", "--config", self.config], capture_output=True, text=True)
        assert check.returncode == 0, check.stderr
        shown = {"--check-config": check.stdout + check.stderr, "the log": "".join(self.written)}
        shown |= {path: self.page(path) for path in ("/metrics", "/live", "/info", "/queues", "/latency")}
        for place, text in shown.items():
            assert (part := canary.found_in(text)) is None, f"{place} shows a secret: {part}…"
        return sum(map(len, shown.values()))

    def audit(self):
        return [line for line in self.written if "millstream::audit" in line]

    def stop(self):
        """Stops the server. It must end as usual."""
        self.process.terminate()
        try:
            assert self.process.wait(timeout=60) == 0, "".join(self.written[-20:])
        finally:
            self.process.kill()
