"""Fails if the server makes a system call that the unit of systemd forbids.

    syscalls.py BINARY UNIT

Runs a server under strace, from its start to the end of its drain, with a producer, a consumer and a reload. Needs strace and
systemd-analyze.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BINARY, UNIT = sys.argv[1:]
PORT = 19871


def group(name: str) -> set[str]:
    """Returns the system calls of a group of systemd, including those of groups in it."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
    entries = [line.strip() for line in text.splitlines()[1:] if not line.strip().startswith("#")]
    calls = {entry for entry in entries if entry and not entry.startswith("@")}
    return calls.union(*(group(entry) for entry in entries if entry.startswith("@")))


def allowed() -> set[str]:
    """Returns the system calls that the unit allows."""
    calls: set[str] = set()
    for line in Path(UNIT).read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            value = line.removeprefix("SystemCallFilter=")
            named = set().union(*(group(name) for name in value.lstrip("~").split()))
            calls = calls - named if value.startswith("~") else calls | named
    return calls


def traced(strace: subprocess.Popen, number: signal.Signals) -> None:
    """Sends a signal to the server, which is strace's only child."""
    for child in Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split():
        os.kill(int(child), number)


def used(place: Path) -> set[str]:
    """Returns the system calls that a server makes."""
    trace, config = place / "trace", place / "server.toml"
    config.write_text("max_connections = 100\n")
    serve = [BINARY, "serve", "--config", config, "--listen", f"127.0.0.1:{PORT}", "--data-dir", place / "data", "--cores", "0"]
    server = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, *serve], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT + 1}/readyz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        client = ["--url", f"ws://127.0.0.1:{PORT}/"]
        subprocess.run([BINARY, "produce", "q", *client], input=b"one\ntwo\n", check=True, stderr=subprocess.DEVNULL)
        subprocess.run([BINARY, "consume", "q", "--count", "2", *client], check=True, capture_output=True)
        config.write_text("max_connections = 200\n")
        subprocess.run([BINARY, "reload", "--control", f"http://127.0.0.1:{PORT + 1}"], check=True, capture_output=True)
        traced(server, signal.SIGTERM)
        assert server.wait(timeout=60) == 0, server.returncode
    finally:
        if server.poll() is None:
            traced(server, signal.SIGKILL)
            server.wait()
    return set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), flags=re.MULTILINE))


with tempfile.TemporaryDirectory() as directory:
    calls = used(Path(directory))
# systemd itself makes this call, before the filter applies.
forbidden = calls - allowed() - {"execve"}
assert len(calls) > 30, calls
assert not forbidden, f"the unit forbids {sorted(forbidden)}"
print(f"{len(calls)} system calls, all allowed by the unit")
