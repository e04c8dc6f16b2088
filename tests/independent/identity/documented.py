"""Runs the examples of docs/security.md that need a provider, as they are written: the fences `sh oidc` and `sh keystone`.

`tests/examples.rs` runs the other ones.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from providers import HERE

PAGE = HERE.parents[2] / "docs/security.md"
LIMIT_SECONDS = 60


def free_port():
    """A free port that the kernel gives to nobody on its own: below net.ipv4.ip_local_port_range."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(10_000, 32_000))) as listening:
            return listening.getsockname()[1]


def run(binary, authority, name, **variables):
    """Runs the examples with a name, in a directory with the CA's certificate."""
    blocks = re.findall(rf"^```sh {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, f"{PAGE.name} has no example {name}"
    place = authority.place / f"documented-{name}"
    place.mkdir()
    shutil.copy(authority.file, place)
    script = "trap 'kill $(jobs -p)' EXIT\n" + "\n".join(blocks)
    ports = {"PORT": str(free_port()), "CONTROL": str(free_port())}
    path = f"{Path(binary).resolve().parent}:{os.environ['PATH']}"
    environment = {**os.environ, **ports, **variables, "PATH": path}
    bash = subprocess.Popen(["bash", "--norc", "-e", "-o", "pipefail", "-c", script], cwd=place, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        said, _ = bash.communicate(timeout=LIMIT_SECONDS)
    finally:
        # What the script has left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
        bash.wait()
    assert bash.returncode == 0 and "\nhello\n" in said, f"the example {name}:\n{said}"
    print(f"docs/security.md: the example {name} works as written")


def check(binary, authority, keystone, oidc):
    run(binary, authority, "oidc", ISSUER=oidc.url, CLIENT="member", SECRET=oidc.clients["member"]["secret"])
    run(binary, authority, "keystone", PASSWORD=keystone.password, OS_AUTH_URL=keystone.url + "/v3", OS_CACERT="ca.pem",
        OS_USERNAME="member", OS_PASSWORD=keystone.password, OS_PROJECT_ID=keystone.projects["alpha"])
