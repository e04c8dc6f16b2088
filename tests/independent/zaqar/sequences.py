"""Sends the same random requests to the official server and to Millstream, and compares the answers.

Each sequence has its own project and two clients, one that speaks JSON and one that speaks MessagePack. Requests name messages, claims and
subscriptions by the order in which answers showed them, because each server has its own ids. Texts of errors are compared only where they
are fixed, ages and times only by their type.
"""

import json
import random
import time
import uuid

from websockets.exceptions import ConnectionClosed

import cases
import wire

SEED = 24
SEQUENCES = 80
REQUESTS = 50
QUEUES = ("q0", "q1")
# A sequence takes less than the shortest of these.
MESSAGE_TTLS = (90, 170, 420, 3600)
CLAIM_TTLS = (61, 130, 300, 601)
GRACES = (60, 77, 95)
BODIES = (None, True, 0, -7, 1.5, "", "text", "é€😀", [], [1, [2, None]], {}, {"a": {"b": [True, "c"]}}, "x" * 300)
JUNK = (None, True, False, 0, -1, 7, 1.5, 10**6, "", "x", "é" * 70, [], ["x"], {}, {"x": 1})
METADATA = ({}, {"a": 1}, {"_default_message_ttl": 170}, {"_max_messages_post_size": 200}, {"_max_claim_count": 3}, {"a": {"b": [None, 1.5]}},
            {"_default_message_ttl": 5}, {"_retry_policy": {"minimum_delay": 1}})
# How often the actions come that are not as frequent as others.
WEIGHTS = {"message_post": 5, "message_delete": 8, "message_list": 4, "claim_create": 5, "queue_purge": 1, "queue_delete": 1, "message_delete_many": 1}
# Errors whose text does not depend on the server.
FIXED = ("is not a valid action", "Schema validation failed.", 'Bad request. Missing "body" field.', 'Bad request. The value of the "ttl" field must be a int.')


class Differs(Exception):
    pass


class Name:
    """Stands for the id that was the n-th of its kind."""

    def __init__(self, kind, number):
        self.kind, self.number = kind, number

    def __repr__(self):
        return f"<{self.kind} {self.number}>"


class Side:
    """One of the servers in a sequence."""

    def __init__(self, server, project, clients):
        self.server, self.project, self.clients = server, project, clients
        self.connections = {client: wire.Connection(server.url) for client in clients}
        self.ids = {"message": [], "claim": [], "subscription": []}
        self.notifications = {client: [] for client in clients}

    def ask(self, client, request):
        """Returns the status and the normalized body of the answer."""
        binary = client == "binary"
        filled = self.filled(request)
        connection = self.connections[client]
        try:
            payload = connection.ask_raw(wire.encode(filled, binary), binary)
        except ConnectionClosed as closed:
            raise Differs(f"{self.server.name} ended the connection: {closed}") from None
        if isinstance(payload, bytes) != binary:
            raise Differs(f"{self.server.name} answers in the other format")
        answer = wire.decode(payload)
        try:
            cases.check_envelope(filled, answer)
        except cases.Failed as failed:
            raise Differs(f"{self.server.name}: {failed}") from None
        return answer["headers"]["status"], self.normalized(answer["body"])

    def filled(self, value):
        if isinstance(value, dict):
            return {key: self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        return self.ids[value.kind][value.number] if isinstance(value, Name) else value

    def name(self, kind, id):
        if not isinstance(id, str) or not id:
            return id
        if id not in self.ids[kind]:
            self.ids[kind].append(id)
        return f"<{kind} {self.ids[kind].index(id)}>"

    def normalized(self, value, key=None, within=None):
        if key in ("body", "options", "metadata"):
            return value
        if isinstance(value, dict):
            return {name: self.normalized(each, name, value) for name, each in value.items()}
        if key == "message_ids":
            return [self.name("message", id) for id in value]
        if isinstance(value, list):
            items = [self.normalized(each, key) for each in value]
            # Millstream lists subscriptions in the order of ids.
            return sorted(items, key=lambda each: each["id"]) if key == "subscriptions" else items
        if key == "id":
            return self.name("subscription" if "subscriber" in within else "message", value)
        if key in ("claim_id", "subscription_id"):
            return self.name(key.removesuffix("_id"), value)
        # Millstream extends claimed messages more often, and its lists do not show it. The cases know where.
        if key in ("age", "created", "subscriber", "claim_count") or key == "ttl" and "claim_id" in within:
            return type(value).__name__
        if key in ("error", "exception"):
            return next((text for text in FIXED if text in str(value)), "a text or null")
        if isinstance(value, str):
            for kind, ids in self.ids.items():
                for number, id in enumerate(ids):
                    value = value.replace(id, f"<{kind} {number}>")
        return value

    def arrived(self, wanted):
        """The notifications of each client, once there are as many as wanted, or after a while."""
        deadline = time.monotonic() + 5
        for client, connection in self.connections.items():
            found = self.notifications[client]
            while (left := deadline - time.monotonic()) > 0 and len(found) < wanted[client]:
                message = connection.notification(left)
                if message is not None:
                    found.append(message)
            # Its answer comes after the notifications that the server has sent.
            connection.ask({"action": "queue_list", "headers": wire.headers(self.project)}, client == "binary")
            found += connection.notifications
            connection.notifications = []
        return {client: sorted(json.dumps([isinstance(each, bytes), wire.decode(each)], sort_keys=True) for each in found)
                for client, found in self.notifications.items()}

    def close(self):
        # The official server with mongomock gets slow with the number of messages.
        for queue in QUEUES:
            self.connections["text"].ask({"action": "queue_delete", "headers": wire.headers(self.project), "body": {"queue_name": queue}})
        for connection in self.connections.values():
            connection.close()


class Generator:
    """Makes requests that suit what the answers so far have shown."""

    def __init__(self, chance, project):
        self.chance, self.project = chance, project
        self.clients = {format: str(uuid.UUID(int=chance.getrandbits(128), version=4)) for format in ("text", "binary")}
        # The queue of each id that an answer has shown.
        self.places = {"message": [], "claim": [], "subscription": []}
        # Millstream looks once a second whether a queue with subscribers is back, so a sequence has either deletions or subscribers.
        left_out = "make_subscription_create" if chance.random() < 0.5 else "make_queue_delete"
        self.actions = {name.removeprefix("make_"): getattr(self, name) for name in dir(self) if name.startswith("make_") and name != left_out}

    def request(self):
        """Returns a client's format and its request. One of five has something wrong with it."""
        client = self.chance.choice(("text", "binary"))
        action = self.chance.choices([*self.actions], [WEIGHTS.get(action, 2) for action in self.actions])[0]
        body = {key: value for key, value in self.actions[action]().items() if value is not Ellipsis}
        request = {"action": action, "headers": wire.headers(self.project, self.clients[client]), "body": body}
        if self.chance.random() < 0.2 and action != "queue_purge":
            self.damage(request)
        return client, request

    def damage(self, request):
        place = self.chance.choice((request["body"], request["body"], request["body"], request["headers"], request)) or request
        key = self.chance.choice([key for key in place if key not in ("action", "queue_name")] or [*place])
        if self.chance.random() < 0.3:
            del place[key]
        else:
            # Another project would be shared by all sequences.
            place[key] = self.chance.choice([junk for junk in JUNK if key != "X-Project-ID" or not isinstance(junk, str)])

    def queue(self):
        return self.chance.choice(QUEUES)

    def maybe(self, *values):
        return self.chance.choice(values) if self.chance.random() < 0.5 else ...

    def id(self, kind, queue):
        """An id that mostly is one of the last of this queue."""
        known = [number for number, place in enumerate(self.places[kind]) if place == queue or self.chance.random() < 0.1]
        return Name(kind, self.chance.choice(known[-12:])) if known and self.chance.random() < 0.9 else "x"

    def message(self):
        return {key: value for key, value in (("body", self.chance.choice(BODIES)), ("ttl", self.maybe(*MESSAGE_TTLS))) if value is not ...}

    def make_queue_create(self):
        return {"queue_name": self.queue(), "metadata": self.maybe(*METADATA)}

    def make_queue_list(self):
        return {"limit": self.maybe(1, 2, 20, 21, 0), "marker": self.maybe("", "q0", "q1", "z"), "detailed": self.maybe(True, False)}

    def make_queue_get(self):
        return {"queue_name": self.queue()}

    def make_queue_delete(self):
        return {"queue_name": self.chance.choice((*QUEUES, "none"))}

    def make_queue_get_stats(self):
        return {"queue_name": self.chance.choice((*QUEUES, "none"))}

    def make_queue_purge(self):
        # Upstream leaves claimed messages.
        return {"queue_name": self.queue(), "resource_types": self.chance.choice((["subscriptions"], [], ["x"]))}

    def make_message_post(self):
        return {"queue_name": self.queue(), "messages": [self.message() for _ in range(self.chance.choice((1, 1, 2, 5)))]}

    def make_message_list(self):
        return {"queue_name": self.queue(), "limit": self.maybe(1, 3, 20), "echo": self.maybe(True, True, False), "include_claimed": self.maybe(True, False)}

    def make_message_get(self):
        queue = self.queue()
        return {"queue_name": queue, "message_id": self.id("message", queue)}

    def make_message_get_many(self):
        queue = self.queue()
        return {"queue_name": queue, "message_ids": [self.id("message", queue) for _ in range(self.chance.choice((0, 1, 3, 21)))]}

    def make_message_delete(self):
        queue = self.queue()
        return {"queue_name": queue, "message_id": self.id("message", queue), "claim_id": self.chance.choice((self.id("claim", queue), ..., ...))}

    def make_message_delete_many(self):
        if self.chance.random() < 0.5:
            return {"queue_name": self.queue(), "pop": self.chance.choice((1, 1, 2, 20, 0, 21))}
        queue = self.queue()
        return {"queue_name": queue, "message_ids": [self.id("message", queue) for _ in range(self.chance.choice((0, 1, 3)))]}

    def make_claim_create(self):
        return {"queue_name": self.queue(), "ttl": self.maybe(*CLAIM_TTLS, 59), "grace": self.maybe(*GRACES, 59), "limit": self.maybe(1, 2, 20, 21)}

    def make_claim_get(self):
        queue = self.queue()
        return {"queue_name": queue, "claim_id": self.id("claim", queue)}

    def make_claim_update(self):
        queue = self.queue()
        return {"queue_name": queue, "claim_id": self.id("claim", queue), "ttl": self.maybe(*CLAIM_TTLS, 59), "grace": self.maybe(*GRACES)}

    def make_claim_delete(self):
        queue = self.queue()
        return {"queue_name": queue, "claim_id": self.id("claim", queue)}

    def make_subscription_create(self):
        return {"queue_name": self.queue(), "ttl": self.maybe(60, 3600, 59), "options": self.maybe({}, {"a": 1})}

    def make_subscription_list(self):
        return {"queue_name": self.queue(), "limit": self.maybe(19, 20, 21)}

    def make_subscription_get(self):
        queue = self.queue()
        return {"queue_name": queue, "subscription_id": self.id("subscription", queue)}

    def make_subscription_delete(self):
        queue = self.queue()
        return {"queue_name": queue, "subscription_id": self.id("subscription", queue)}


def allowed(request, official, ours):
    """Whether two answers may differ in this way."""
    action, body = request["action"], request.get("body")
    body = body if isinstance(body, dict) else {}
    # Where upstream fails, Millstream says what is wrong.
    if official[0] == 500:
        return ours[0] == 400
    # Upstream takes what Python thinks of as empty.
    if action == "queue_create" and body.get("metadata") in (0, False):
        return ours[0] == 400
    # A further field, which upstream hides.
    if action == "message_list" and official[0] == ours[0] == 200:
        return official[1] == {"messages": ours[1]["messages"]}
    # Upstream does not check the grace of an update.
    if action == "claim_update" and type(body.get("grace")) is not int:
        return ours[0] == 400
    # Upstream does not check the type of this limit.
    if action == "subscription_list" and type(body.get("limit")) is not int:
        return ours[0] == 400
    # A claim of which the message is not is a conflict upstream, as one that is over is here.
    if action == "message_delete" and official[0] == 403 and "claim_id" in body:
        return ours[0] == 400
    # Upstream looks at the claim before it sees that there is no such message.
    if action == "message_delete" and official[0] == 400 and isinstance(body.get("claim_id"), str):
        return ours[0] == 204
    return False


def run(official, ours, seed=SEED, sequences=SEQUENCES):
    """Runs the sequences, and prints the first difference in each. Returns whether there is none."""
    differing, requests, statuses = 0, 0, {}
    for number in range(sequences):
        chance = random.Random(seed * 1_000_000 + number)
        generator = Generator(chance, f"sequence-{uuid.uuid4()}")
        sides = [Side(server, generator.project, generator.clients) for server in (official, ours)]
        try:
            # Refused posts to a queue that does not exist may create it.
            for queue in QUEUES:
                ask(sides, generator, "text", {"action": "queue_create", "headers": wire.headers(generator.project), "body": {"queue_name": queue}})
            for _ in range(REQUESTS):
                status = ask(sides, generator, *generator.request())
                statuses[status] = statuses.get(status, 0) + 1
                requests += 1
            compare_notifications(*sides)
        except Differs as differs:
            differing += 1
            print(f"DIFFERS sequence {number}: {differs}")
        finally:
            for side in sides:
                side.close()
    print(f"sequences: {requests} requests, {sequences - differing} sequences are equal, {differing} differ; statuses {dict(sorted(statuses.items()))}")
    return differing == 0


def ask(sides, generator, client, request):
    official, ours = (side.ask(client, request) for side in sides)
    if official != ours and not allowed(request, official, ours):
        raise Differs(f"\n    request  {request}\n    official {official}\n    ours     {ours}")
    known = [{kind: len(ids) for kind, ids in side.ids.items()} for side in sides]
    if known[0] != known[1]:
        raise Differs(f"after {request}, the servers have shown {known}")
    for kind, places in generator.places.items():
        places += [request["body"]["queue_name"] for _ in range(known[0][kind] - len(places))]
    return official[0]


def compare_notifications(official, ours):
    """Compares the notifications of both servers, in any order: the official server sends them from threads."""
    wanted = dict.fromkeys(official.clients, 0)
    deadline = time.monotonic() + 5
    while True:
        expected, found = official.arrived(wanted), ours.arrived(wanted)
        if expected == found:
            return
        if time.monotonic() > deadline:
            raise Differs(f"notifications\n    official {expected}\n    ours     {found}")
        wanted = {client: max(len(expected[client]), len(found[client])) for client in wanted}
