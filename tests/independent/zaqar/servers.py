"""The servers under test: Millstream, the official one, or one that runs already."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The key of signed requests. Millstream wants 16 bytes.
SECRET_KEY = "a secret key of this test"


class Running:
    """A server that somebody else started."""

    name = "ours"

    def __init__(self, url):
        self.url = url

    def stop(self):
        pass


class Official:
    """The official server. It validates tokens with a Keystone if there is one."""

    name = "official"

    def __init__(self, keystone=None):
        self.place = tempfile.TemporaryDirectory()
        config = Path(self.place.name) / "zaqar.conf"
        strategy = "auth_strategy = keystone" if keystone else ""
        mongodb = "uri = mongodb://memory"
        config.write_text(f"""
[DEFAULT]
unreliable = True
{strategy}
[drivers]
transport = websocket
message_store = mongodb
[drivers:management_store:mongodb]
{mongodb}
[drivers:message_store:mongodb]
{mongodb}
[storage]
message_pipeline = zaqar.notification.notifier
[signed_url]
secret_key = {SECRET_KEY}
""" + (f"""
[keystone_authtoken]
www_authenticate_uri = {keystone.url}
auth_type = admin_token
endpoint = {keystone.url}
token = token-of-the-service
service_token_roles_required = False
""" if keystone else ""))
        command = [sys.executable, "-W", "ignore", Path(__file__).with_name("official.py"), config]
        self.log = open(Path(self.place.name) / "log", "w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise AssertionError("the official server does not start:\n" + self.log.read()[-3000:])
        self.url = "ws://" + line.strip().removeprefix("listen=") + "/v2"

    def stop(self):
        self.process.kill()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        self.log.close()
        self.place.cleanup()


class Millstream:
    """The server under test. It validates tokens with a Keystone if there is one."""

    name = "ours"

    def __init__(self, binary, keystone=None, store="log"):
        self.place = tempfile.TemporaryDirectory()
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--cores", "0", "--store", store]
        if store == "log":
            command += ["--data-dir", self.place.name + "/data"]
        if keystone:
            account = Path(self.place.name) / "account"
            account.write_text("username = millstream\nuser_domain_id = default\npassword = unchecked\nproject_name = service\nproject_domain_id = default\n")
            account.chmod(0o600)
            command += ["--auth", "keystone", "--auth-keystone-url", keystone.url, "--auth-keystone-credentials", account]
            key = Path(self.place.name) / "key"
            key.write_text(SECRET_KEY)
            key.chmod(0o600)
            command += ["--auth-roles", "member = produce,consume,claim,manage:*", "--zaqar-signing-key-file", key]
        self.log = open(Path(self.place.name) / "log", "w+")
        self.process = subprocess.Popen(command, stderr=self.log)
        deadline = time.monotonic() + 30
        while (found := re.search(r" listen=127\.0\.0\.1:(\d+)", self.written())) is None:
            assert self.process.poll() is None and time.monotonic() < deadline, "the server does not start:\n" + self.written()
            time.sleep(0.01)
        self.url = f"ws://127.0.0.1:{found[1]}/v2"

    def written(self):
        return (Path(self.place.name) / "log").read_text()

    def stop(self):
        self.process.terminate()
        try:
            assert self.process.wait(timeout=60) == 0, self.written()[-3000:]
        finally:
            self.process.kill()
            self.log.close()
            self.place.cleanup()
