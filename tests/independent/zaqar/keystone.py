"""A Keystone that knows a few tokens. It answers as much of the Identity API v3 as a service needs to validate them."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The token of the service itself, and the user's role.
SERVICE = "token-of-the-service"
ROLE = "member"


class Keystone:
    def __init__(self):
        self.tokens = {SERVICE: self.token("service", 3600)}
        keystone = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                subject = self.headers.get("X-Subject-Token")
                if self.path.split("?")[0].rstrip("/").endswith("/auth/tokens"):
                    token = keystone.tokens.get(subject)
                    if self.headers.get("X-Auth-Token") not in keystone.tokens:
                        self.answer(401, {"error": {"code": 401, "title": "Unauthorized", "message": "no such service"}})
                    elif token is None or datetime.fromisoformat(token["expires_at"]) <= datetime.now(UTC):
                        self.answer(404, {"error": {"code": 404, "title": "Not Found", "message": "no such token"}})
                    else:
                        self.answer(200, {"token": token}, subject)
                else:
                    version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": keystone.url}], "media-types": []}
                    self.answer(200, {"version": version})

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201, {"token": keystone.tokens[SERVICE]}, SERVICE)

            def answer(self, status, document, subject=None):
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if subject:
                    self.send_header("X-Subject-Token", subject)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v3"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, project, seconds):
        now = datetime.now(UTC)
        return {
            "methods": ["password"],
            "expires_at": (now + timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "issued_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "project": {"id": project, "name": project, "domain": {"id": "default", "name": "Default"}},
            "user": {"id": "user", "name": "user", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": ROLE, "name": ROLE}],
            "audit_ids": ["audit"],
            "catalog": [],
        }

    def issue(self, project, seconds=3600):
        """Issues a token of a project that expires in this many seconds."""
        text = f"gAAAAA-{project}-{len(self.tokens):04}"
        self.tokens[text] = self.token(project, seconds)
        return text

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
