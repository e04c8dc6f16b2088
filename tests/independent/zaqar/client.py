"""Uses a server as an ordinary user would, with python-zaqarclient over WebSocket.

Its transport sends `authenticate` first, also to a server without authentication, and only requests with a body reach the server whole: its
higher level puts names of queues into parameters, which this transport does not send.
"""

import json
import uuid

import wire
from zaqarclient import transport
from zaqarclient.queues.v2.client import Client
from zaqarclient.transport import errors, request


class User:
    def __init__(self, url, project, token):
        self.url = url
        self.conf = {"auth_opts": {"backend": "keystone", "options": {"os_auth_token": token, "os_project_id": project}}}
        self.transport = transport.get_transport_for(url, options=self.conf)

    def __call__(self, operation, **body):
        answer = self.transport.send(request.Request(self.url, operation, content=json.dumps(body)))
        return answer.deserialized_content

    def refused(self, error, operation, **body):
        try:
            result = self(operation, **body)
        except error:
            return
        raise AssertionError(f"{operation} {body} is not refused: {result}")


def check(url, project, token):
    one, two = User(url, project, token), User(url, project, token)
    queue, created = {"queue_name": "fizz"}, "Queue fizz created."
    with one.transport, two.transport:
        assert one("queue_create", **queue, metadata={"_default_message_ttl": 120}) == created
        # A queue that exists is no error.
        assert one("queue_create", **queue) == created
        assert one("queue_get", **queue) == {"_default_message_ttl": 120}
        queues, _ = Client(url, conf=one.conf).queues()
        assert [queue.name for queue in queues] == ["fizz"]

        ids = one("message_post", **queue, messages=[{"body": {"n": n}} for n in range(5)])["message_ids"]
        assert len(set(ids)) == 5
        assert one("message_list", **queue)["messages"] == [], "a client's own messages"
        assert [each["body"]["n"] for each in two("message_list", **queue)["messages"]] == [0, 1, 2, 3, 4]
        message = two("message_get", **queue, message_id=ids[3])["messages"]
        assert (message["id"], message["ttl"], message["body"]) == (ids[3], 120, {"n": 3}), message

        claim = two("claim_create", **queue, ttl=90, grace=60, limit=2)
        assert [each["id"] for each in claim["messages"]] == ids[:2]
        stats = one("queue_get_stats", **queue)["messages"]
        assert (stats["claimed"], stats["free"], stats["total"]) == (2, 3, 5), stats
        one.refused(errors.ForbiddenError, "message_delete", **queue, message_id=ids[0])
        one("message_delete", **queue, message_id=ids[0], claim_id=claim["claim_id"])
        two("claim_update", **queue, claim_id=claim["claim_id"], ttl=200)
        held = two("claim_get", **queue, claim_id=claim["claim_id"])
        assert held["ttl"] == 200 and [each["id"] for each in held["messages"]] == [ids[1]], held
        two("claim_delete", **queue, claim_id=claim["claim_id"])
        one.refused(errors.ResourceNotFound, "claim_get", **queue, claim_id=claim["claim_id"])

        assert [each["id"] for each in one("message_delete_many", **queue, pop=2)["messages"]] == ids[1:3]
        one.refused(errors.ResourceNotFound, "message_get", **queue, message_id=ids[1])
        one.refused(errors.MalformedRequest, "message_post", **queue, messages=[])
        one.refused(errors.MalformedRequest, "queue_create", queue_name="not a name")

        assert two("subscription_create", **queue)["message"] == "Subscription fizz created."
        two.refused(errors.ConflictError, "subscription_create", **queue)
        one("message_post", **queue, messages=[{"body": "news"}])
        assert two.transport.recv() == {"body": "news", "ttl": 120, "queue_name": "fizz", "Message_Type": "Notification"}

        one("queue_purge", **queue)
        one.refused(errors.ResourceNotFound, "message_get", **queue, message_id=ids[3])
        one("queue_delete", **queue)
        one.refused(errors.ResourceNotFound, "queue_get_stats", **queue)


def run(url, url_with_keystone, keystone):
    """Checks a server without authentication, if there is one that answers `authenticate`, and one with Keystone."""
    if url:
        check(url, f"user-{uuid.uuid4()}", "any")
        print("python-zaqarclient: queues, messages, claims and subscriptions work without authentication")
    if url_with_keystone:
        project = f"user-{uuid.uuid4()}"
        check(url_with_keystone, project, keystone.issue(project))
        stranger = User(url_with_keystone, project, "unknown")
        with stranger.transport:
            stranger.refused(errors.UnauthorizedError, "queue_list")
        other = User(url_with_keystone, project, keystone.issue("another"))
        with other.transport:
            other.refused(errors.ForbiddenError, "queue_list", limit=1)
        with_expiry(url_with_keystone, project, keystone)
        print("python-zaqarclient: the same with a token, and not without")


def with_expiry(url, project, keystone):
    connection = wire.Connection(url)
    token = keystone.issue(project, seconds=2)
    answer = connection.ask({"action": "authenticate", "headers": {"X-Auth-Token": token, "X-Project-ID": project}})
    assert answer == {"request": {"action": "authenticate", "body": {}, "headers": {}, "api": "v2"}, "body": {"message": "Authentified."},
                      "headers": {"status": 200}}, answer
    assert connection.ended() == (4003, "Authentication expired.")
