"""Starts and stops a server for a measurement, for the scripts in this directory."""

import contextlib
import os
import pathlib
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile

import certificate

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What `build` builds.
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BINARY = RELEASE / "millstream"


def build(*arguments):
    subprocess.run(["cargo", "build", "--release", "--quiet", *arguments], cwd=ROOT, check=True)


def free_port():
    """A free port that the kernel gives to nobody on its own: below net.ipv4.ip_local_port_range."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(10_000, 32_000))) as listener:
            return listener.getsockname()[1]


class Server:
    """A `millstream serve` of `binary` with `arguments` on a free port. `files` limits its open files. With `tls`, clients reach it
    over TLS."""

    def __init__(self, *arguments, files=None, tls=False, binary=BINARY):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        if tls:
            self.certificates = tempfile.TemporaryDirectory()
            ca, key = certificate.create(self.certificates.name)
            tls_port = free_port()
            arguments += ("--tls-listen", f"127.0.0.1:{tls_port}", "--tls-certificates", f"{ca}:{key}")
        command = [binary, "serve", "--listen", "127.0.0.1:0", *arguments]
        # The store is in memory, unless the arguments name another.
        environment = {**os.environ, "MILLSTREAM_STORE": "memory"}
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.process = subprocess.Popen(command, stderr=self.log, env=environment, preexec_fn=limit)
        while not (found := re.search(r"\blisten=127\.0\.0\.1:(\d+)", self.text())):
            if self.process.poll() is not None:
                sys.exit(f"the server ended: {self.text()}")
        self.port = int(found[1])
        control = re.search(r"control=127\.0\.0\.1:(\d+)", self.text())
        self.control = int(control[1]) if control else None
        self.pid = self.process.pid
        self.url = f"wss://127.0.0.1:{tls_port}/" if tls else f"ws://127.0.0.1:{self.port}/"
        # The arguments with which `bench` finds the server and its histograms.
        self.address = ["--url", self.url] + (["--ca", str(ca)] if tls else [])
        self.address += ["--control", f"http://127.0.0.1:{self.control}"] if self.control else []

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def stop(self):
        """Stops the server. Returns the messages that each shard has stored, and those that hopped from it."""
        self.process.terminate()
        if self.process.wait() != 0:
            sys.exit(f"the server ended with {self.process.returncode}: {self.text()}")
        each = lambda name: [int(number) for number in re.findall(rf"{name}=(\d+)", self.text())]
        return each("messages_stored"), each("messages_hopped")
