"""Runs upstream's own tests of its WebSocket transport against a server at the other end of a socket.

The tests drive a protocol object inside their process. `Bootstrap` here replaces upstream's, and hands them one that is a client: it sends
what they give to `onMessage`, and calls `sendMessage` with the payload of the answer. Where they look into the server's storage, it asks
the server. Where they play Keystone, it authenticates with a token on which Keystone says the same. Where they sign with a key of theirs, it
signs with the server's.
"""

import io
import json
import logging
import os
import sys
import time
import types
import unittest
import uuid
from pathlib import Path
from unittest import mock

import requests
import zaqar
import zaqar.transport.websocket.factory  # noqa: F401, a test names it
from zaqar import bootstrap
from zaqar.common import urls
from zaqar.transport import base

import servers
import wire

ROOT = "zaqar.tests.unit.transport.websocket."
MODULES = ("test_protocol", "v2.test_auth", "v2.test_claims", "v2.test_messages", "v2.test_queue_lifecycle", "v2.test_subscriptions")
# How many tests zaqar 23.0.1 has, with those below. Another number is another suite.
TESTS = 108

# Tests that say nothing about what a client sees.
NOT_ON_THE_WIRE = {
    "test_protocol.TestMessagingProtocol.test_ipv6_escaped": "compares an argument of a Python constructor",
    "v2.test_auth.AuthTest.test_post": "compares the arguments of a Python method",
    "v2.test_auth.AuthTest.test_reauth": "compares the timer handles of Python's event loop",
    "v2.test_queue_lifecycle.QueueLifecycleBaseTest.test_list_returns_503_on_nopoolfound_exception": "breaks the storage with a mock",
    "v2.test_queue_lifecycle.TestQueueLifecycleMongoDB.test_list_returns_503_on_nopoolfound_exception": "breaks the storage with a mock",
    "v2.test_subscriptions.SubscriptionTest.test_list_returns_503_on_nopoolfound_exception": "breaks the storage with a mock",
    "v2.test_subscriptions.SubscriptionTest.test_subscription_create_trust": "mocks the creation of a trust, and fakes an authentication",
}
# Tests that upstream itself skips.
SKIPPED_UPSTREAM = {
    "v2.test_queue_lifecycle.QueueLifecycleBaseTest.test_update_metadata",
    "v2.test_queue_lifecycle.TestQueueLifecycleMongoDB.test_update_metadata",
}


class Bootstrap:
    """What upstream's `Bootstrap` is to the tests: the ways to the server."""

    # The URLs of the servers without and with Keystone, and Keystone.
    url = url_with_keystone = keystone = None

    def __init__(self, conf):
        url = self.url_with_keystone if conf.auth_strategy else self.url
        self.api = Api(conf)
        self.transport = Transport(url, self.api, self.keystone)
        self.storage = Storage(url, self.transport)
        self.control = types.SimpleNamespace(close=lambda: None, queues_database=None)


class Api:
    def __init__(self, conf):
        self.conf = conf
        self.subscription_url = None

    def get_defaults(self):
        return base.ResourceDefaults(self.conf)

    def set_subscription_factory(self, factory):
        self.subscription_url = factory._subscription_url


class Factory:
    """Connects. The tests call it, and give it to upstream's `NotificationFactory`."""

    def __init__(self, transport):
        self.transport = transport
        self._protos = {}
        self._secret_key = None

    def __call__(self):
        protocol = Protocol(self.transport, self)
        self._protos[protocol.proto_id] = Arrived(protocol)
        self.transport.protocols.append(protocol)
        return protocol


class Transport:
    def __init__(self, url, api, keystone):
        self.url, self.api, self.keystone = url, api, keystone
        self.protocols = []
        # The ids of the subscriptions that a test put into the storage. They stand for subscriptions with the subscriber "".
        self.stored = set()
        self.factory = Factory(self)

    def shown(self, subscription):
        """Shows a subscription as the test expects it. Only the server knows its own name of a connection."""
        assert isinstance(subscription["subscriber"], str), subscription
        if subscription["id"] in self.stored:
            return subscription | {"subscriber": ""}
        for protocol in self.protocols:
            if subscription["id"] in protocol.subscriptions:
                return subscription | {"subscriber": self.api.subscription_url + protocol.proto_id}
        return subscription


class Protocol:
    def __init__(self, transport, factory):
        self.transport, self.factory = transport, factory
        self._handler = transport.api
        self.connection = wire.Connection(transport.url)
        self.proto_id = str(uuid.uuid4())
        self.subscriptions = set()
        self.notify_in_binary = None
        self.last_notification = None
        # A project and a name for each queue that a request named.
        self.queues = set()
        # The request to authenticate on which the test has not given Keystone's verdict.
        self._auth_app = self._auth_in_binary = self._auth_env = None

    def sendMessage(self, payload, is_binary):
        pass

    def onMessage(self, payload, is_binary):
        request = self.understood(payload, is_binary)
        if request.get("action") == "authenticate":
            self._auth_app, self._auth_in_binary = request, is_binary
            return
        answer = self.connection.ask_raw(self.signed(request, payload), is_binary)
        self.note(request, wire.decode(answer), is_binary)
        self.sendMessage(self.adapted(request, answer), isinstance(answer, bytes))
        if request.get("action") == "message_post" and self.subscriptions:
            self.notify()

    def understood(self, payload, is_binary):
        try:
            request = wire.decode(payload) if is_binary == isinstance(payload, bytes) else None
        except ValueError:
            request = None
        return request if isinstance(request, dict) else {}

    def signed(self, request, payload):
        """Signs a request with the server's key if the test has signed it with its own."""
        headers = request.get("headers", {})
        if "URL-Signature" not in headers:
            return payload
        what = (headers["URL-Paths"], headers["X-Project-ID"], headers["URL-Expires"], headers["URL-Methods"])
        if headers["URL-Signature"] != urls.create_signed_url(self.factory._secret_key, *what)["signature"]:
            return payload
        signature = urls.create_signed_url(servers.SECRET_KEY, *what)["signature"]
        return json.dumps(request | {"headers": headers | {"URL-Signature": signature}})

    def note(self, request, answer, is_binary):
        body, project = request.get("body"), request.get("headers", {}).get("X-Project-ID")
        if isinstance(body, dict) and isinstance(body.get("queue_name"), str) and project:
            self.queues.add((project, body["queue_name"]))
        if request.get("action") == "subscription_create" and answer["headers"]["status"] == 201:
            self.subscriptions.add(answer["body"]["subscription_id"])
            self.notify_in_binary = is_binary

    def adapted(self, request, answer):
        if request.get("action") not in ("subscription_get", "subscription_list") or isinstance(answer, bytes):
            return answer
        document = json.loads(answer)
        if request["action"] == "subscription_get" and "subscriber" in document["body"]:
            document["body"] = self.transport.shown(document["body"])
        if "subscriptions" in document["body"]:
            document["body"]["subscriptions"] = [self.transport.shown(each) for each in document["body"]["subscriptions"]]
        return json.dumps(document)

    def notify(self):
        """Posts a notification that arrived to where the test looks for it, as upstream's server does inside."""
        self.last_notification = self.connection.notification(seconds=5)
        if self.last_notification is not None and isinstance(requests.post, mock.NonCallableMock):
            self.notify_in_binary = isinstance(self.last_notification, bytes)
            requests.post("", data=json.dumps(wire.decode(self.last_notification)))

    # The tests call these as Keystone's verdict on the token of the request.
    def _auth_start(self, env, start_response):
        assert self.authenticated(valid=True)["headers"]["status"] == 200
        self._auth_env = env
        start_response("200 OK", [])

    def _auth_response(self, status, message):
        self.authenticated(valid=status.startswith("200"))

    def authenticated(self, valid):
        request = self._auth_app or {"action": "authenticate", "headers": wire.headers("project")}
        headers = dict(request["headers"])
        headers["X-Auth-Token"] = self.transport.keystone.issue(headers["X-Project-ID"]) if valid else "unknown"
        self._auth_app = None
        payload = wire.encode(request | {"headers": headers}, self._auth_in_binary)
        answer = self.connection.ask_raw(payload, self._auth_in_binary)
        self.sendMessage(answer, isinstance(answer, bytes))
        return wire.decode(answer)

    def onClose(self, was_clean, code, reason):
        self.connection.close()
        self.transport.factory._protos.pop(self.proto_id)
        # The object of upstream still works, and the end of a test deletes its queue with it.
        self.connection = wire.Connection(self.transport.url)


class Arrived:
    """A protocol to which `NotificationFactory.send_data` passes a notification on. It sends what came over the socket."""

    notify_in_binary = None

    def __init__(self, protocol):
        self.protocol = protocol

    def sendMessage(self, data, is_binary):
        arrived = self.protocol.last_notification
        assert json.loads(data) == wire.decode(arrived)
        self.protocol.sendMessage(arrived, isinstance(arrived, bytes))


class Storage:
    """The server's storage, as far as another connection can see it."""

    def __init__(self, url, transport):
        self.transport = transport
        self.connection = wire.Connection(url)
        self.subscription_controller = Subscriptions(transport, self.connection)
        # A class of the tests drops the databases at its end. `close` does more.
        self._storage = types.SimpleNamespace(connection=mock.Mock(), message_databases=())

    def close(self):
        """Leaves nothing behind for the next test."""
        for protocol in self.transport.protocols:
            for project, queue in protocol.queues:
                self.connection.ask({"action": "queue_delete", "headers": wire.headers(project), "body": {"queue_name": queue}})
            protocol.connection.close()
        self.connection.close()


class Subscriptions:
    def __init__(self, transport, connection):
        self.transport, self.connection = transport, connection

    def ask(self, action, project, **body):
        return self.connection.ask({"action": action, "headers": wire.headers(project), "body": body})["body"]

    def list(self, queue, project):
        gone = {id for protocol in self.transport.protocols if protocol.proto_id not in self.transport.factory._protos for id in protocol.subscriptions}
        deadline = time.monotonic() + 5
        while True:
            found = self.ask("subscription_list", project, queue_name=queue)["subscriptions"]
            # The server notices the end of a connection a little later than the client.
            if not gone & {each["id"] for each in found} or time.monotonic() > deadline:
                break
        yield [self.transport.shown(each) for each in found]

    def create(self, queue, subscriber, ttl, options, project):
        assert subscriber == "", "only the subscriber that stands for a connection"
        id = self.ask("subscription_create", project, queue_name=queue, ttl=ttl, options=options)["subscription_id"]
        self.transport.stored.add(id)
        return id

    def delete(self, queue, id, project):
        self.ask("subscription_delete", project, queue_name=queue, subscription_id=id)


def run(url, url_with_keystone, keystone, also_left_out=()):
    """Runs the tests and prints how many passed. Exits with 1 if one fails that must pass."""
    os.environ["ZAQAR_TESTS_CONFIGS_DIR"] = str(Path(zaqar.__file__).parent / "tests/etc")
    os.environ["ZAQAR_TEST_MONGODB"] = "1"
    # The tests turn everything on.
    logging.disable()
    Bootstrap.url, Bootstrap.url_with_keystone, Bootstrap.keystone = url, url_with_keystone, keystone
    loaded = list(flat(unittest.defaultTestLoader.loadTestsFromNames([ROOT + name for name in MODULES])))
    assert len(loaded) == TESTS, f"upstream has {len(loaded)} tests instead of {TESTS}"
    names = {test.id().removeprefix(ROOT) for test in loaded}
    left_out = NOT_ON_THE_WIRE.keys() | set(also_left_out)
    assert left_out <= names, f"no such tests: {left_out - names}"
    suite = unittest.TestSuite(test for test in loaded if test.id().removeprefix(ROOT) not in left_out)
    with mock.patch.object(bootstrap, "Bootstrap", Bootstrap):
        result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    failed = result.failures + result.errors
    for test, trace in failed:
        print(f"upstream: {test.id().removeprefix(ROOT)} fails:\n{trace}", file=sys.stderr)
    skipped = {test.id().removeprefix(ROOT) for test, _ in result.skipped}
    assert skipped == SKIPPED_UPSTREAM, f"upstream skips {skipped}"
    passed = result.testsRun - len(failed) - len(skipped)
    print(f"upstream's tests: {passed} of {TESTS} pass, {len(left_out)} are not about the wire, {len(skipped)} are skipped by upstream")
    return not failed


def flat(suite):
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from flat(each)
        else:
            yield each
