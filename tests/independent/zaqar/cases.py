"""Runs the conversations of `cases.jsonl` with a server: over both formats, each in a project of its own.

A line is a case: `section` names the part of the API, `case` says what it shows, and `steps` are its steps. `format` is there if only `text` or
`binary` can have it, `needs` if it needs a server with Keystone. A step has:

| key | meaning |
| --- | --- |
| `action`, `body`, `headers` | the request. `headers` changes the usual ones, `null` removes one. Without `body` the request has none |
| `more` | further keys of the request |
| `raw`, `raw_hex` | instead: the payload of a text or binary message; `request` is what its answer must echo, if it can be decoded |
| `text` | `raw_hex` is sent as text |
| `status`, `answer` | what the answer must be; `answer` is a pattern of its body, and may be left out |
| `ends` | instead: the server must end the connection |
| `client` | the name of the client, `a` if absent: each has a `Client-ID` and a connection |
| `binary` | the format of the request, if it is not that of the case |
| `pieces` | the number of fragments of the request |
| `soon` | the answer must be like this within a few seconds |
| `ours`, `official` | keys that replace those of the step for this server, because Millstream differs on purpose; `why` says why |

These are steps without a request:

| key | meaning |
| --- | --- |
| `together` | steps whose requests are all sent before the first answer is read |
| `notification` | the pattern of the notification that this client must get; with `format` and `is`, the format and the pattern |
| `quiet` | this client must have got no notification before the answer to another request |
| `closes` | this client closes its connection |
| `seconds` | how long to wait, for something to expire |

A pattern is a JSON value. A map must have exactly these keys, or at least these with `"...": true`, a list as many items. Texts with `$` are
special: `$any`, `$text`, `$id` (a text that is not empty), `$int`, `$starts:TEXT`, `$failed` (the map of an error in an action), `$invalid` (that
of a request that reached none), `$error-starts:TEXT` (the same with a text), `$set:NAME`, which keeps the value, and `$get:NAME`, which is that
value.

In requests, `$get:NAME.0` is the first item of that value, `$project` the project, `$token` a token of the project that Keystone knows,
`$token:PROJECT` one of another project, `{"$repeat": [VALUE, N]}` a text or a list that consists of N of these, `{"$hex": "00ff"}` bytes, and
`{"$signed": {"methods", "paths", …}}` the headers of a signed request.
"""

import hmac
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from websockets.exceptions import WebSocketException

import servers
import wire

CASES = Path(__file__).with_name("cases.jsonl")
# How long a notification may take, and a subscription to go after its connection.
SOON_SECONDS = 5


class Failed(Exception):
    pass


class Conversation:
    def __init__(self, server, keystone, binary):
        self.server, self.keystone, self.binary = server, keystone, binary
        self.project = f"case-{uuid.uuid4()}"
        self.clients, self.connections = {}, {}
        self.values = {"project": self.project}

    def connection(self, client):
        if client not in self.connections:
            self.connections[client] = wire.Connection(self.server.url)
        return self.connections[client]

    def step(self, step):
        step = step | step.get(self.server.name, {})
        client = step.get("client", "a")
        if "seconds" in step:
            time.sleep(step["seconds"])
        elif step.get("closes"):
            self.connections.pop(client).close()
        elif "notification" in step:
            self.notified(client, step["notification"])
        elif step.get("quiet"):
            self.quiet(client)
        elif "together" in step:
            sent = [(each, *self.send(client, each)) for each in step["together"]]
            for each, request, binary in sent:
                self.answered(client, each, request, binary)
        elif step.get("ends"):
            self.send(client, step)
            self.connections.pop(client).ended()
        else:
            self.ask(client, step)

    def ask(self, client, step):
        deadline = time.monotonic() + SOON_SECONDS
        while True:
            try:
                return self.answered(client, step, *self.send(client, step))
            except Failed:
                if not step.get("soon") or time.monotonic() > deadline:
                    raise

    def send(self, client, step):
        request, payload, binary = self.request(client, step)
        self.connection(client).send(payload, binary, step.get("pieces", 1))
        return request, binary

    def answered(self, client, step, request, binary):
        payload = self.connection(client).answer()
        if isinstance(payload, bytes) != binary:
            raise Failed(f"the answer has the other format: {payload!r}")
        answer = wire.decode(payload)
        check_envelope(request, answer)
        status = answer["headers"]["status"]
        if status != step["status"]:
            raise Failed(f"status {status} instead of {step['status']}, body {answer['body']!r}")
        if "answer" in step:
            self.compare(step["answer"], answer["body"], "body")

    def request(self, client, step):
        """The request, or None if it cannot be decoded or is no map, its payload, and whether that is binary."""
        if "raw" in step or "raw_hex" in step:
            payload = bytes.fromhex(step["raw_hex"]) if "raw_hex" in step else step["raw"]
            return step.get("request"), payload, "raw_hex" in step and not step.get("text")
        headers = wire.headers(self.project, self.clients.setdefault(client, str(uuid.uuid4())))
        changed = self.filled(step.get("headers", {}))
        for name, value in (changed.pop("$signed", {}) | changed).items():
            if value is None:
                del headers[name]
            else:
                headers[name] = value
        request = {"action": self.filled(step.get("action")), "headers": headers} | self.filled(step.get("more", {}))
        if "body" in step:
            request["body"] = self.filled(step["body"])
        binary = step.get("binary", self.binary)
        return request, wire.encode(request, binary), binary

    def filled(self, value):
        if isinstance(value, dict):
            if "$repeat" in value:
                item, times = value["$repeat"]
                item = self.filled(item)
                return (item if isinstance(item, str) else [item]) * times
            if "$hex" in value:
                return bytes.fromhex(value["$hex"])
            return {key: self.signature(each) if key == "$signed" else self.filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each) for each in value]
        if value == "$project":
            return self.project
        if isinstance(value, str) and value.startswith("$token"):
            return self.keystone.issue(value.partition(":")[2] or self.project)
        if isinstance(value, str) and value.startswith("$get:"):
            name, *path = value.removeprefix("$get:").split(".")
            if name not in self.values:
                raise Failed(f"no earlier step kept {name}")
            found = self.values[name]
            for each in path:
                found = found[int(each)]
            return found
        return value

    def signature(self, what):
        methods, paths, expires = what["methods"], what["paths"], what.get("expires", "2099-12-31T00:00:00")
        # Between the parts are the two characters backslash and n.
        text = "\\n".join([",".join(sorted(paths)), ",".join(sorted(methods)), what.get("project", self.project), expires])
        made = hmac.new(what.get("key", servers.SECRET_KEY).encode(), text.encode(), "sha256").hexdigest()
        return {"URL-Signature": made, "URL-Expires": expires, "URL-Methods": methods, "URL-Paths": paths}

    def notified(self, client, pattern):
        message = self.connection(client).notification(SOON_SECONDS)
        if message is None:
            raise Failed("no notification")
        if "format" in pattern:
            binary = pattern["format"] == "binary"
            pattern = pattern["is"]
        else:
            binary = self.binary
        if isinstance(message, bytes) != binary:
            raise Failed(f"the notification has the other format: {message!r}")
        self.compare(pattern, wire.decode(message), "notification")

    def quiet(self, client):
        connection = self.connection(client)
        connection.ask({"action": "queue_list", "headers": wire.headers(self.project)}, self.binary)
        if connection.notifications:
            raise Failed(f"a notification: {connection.notifications}")

    def compare(self, pattern, value, place):
        if isinstance(pattern, str) and pattern.startswith("$"):
            self.compare_special(pattern, value, place)
        elif isinstance(pattern, dict):
            if "$hex" in pattern or "$repeat" in pattern:
                pattern = self.filled(pattern)
                if pattern != value:
                    raise Failed(f"{place} is {str(value)[:300]}")
                return
            more = "..." in pattern
            # In this order: a value may be kept by one key and used by the next.
            names = [name for name in pattern if name != "..."]
            if not isinstance(value, dict) or not (set(names) <= value.keys() if more else set(names) == value.keys()):
                raise Failed(f"{place} is {value!r} instead of {pattern!r}")
            for name in names:
                self.compare(pattern[name], value[name], f"{place}.{name}")
        elif isinstance(pattern, list):
            if not isinstance(value, list) or len(value) != len(pattern):
                raise Failed(f"{place} is {value!r} instead of {pattern!r}")
            for number, each in enumerate(pattern):
                self.compare(each, value[number], f"{place}.{number}")
        elif pattern != value or isinstance(pattern, bool) != isinstance(value, bool):
            raise Failed(f"{place} is {value!r} instead of {pattern!r}")

    def compare_special(self, pattern, value, place):
        name, _, argument = pattern[1:].partition(":")
        if name == "set":
            self.values[argument] = value
        elif name == "get":
            if value != self.filled(pattern):
                raise Failed(f"{place} is {value!r} instead of {self.filled(pattern)!r}")
        elif not matches(name, argument, value):
            raise Failed(f"{place} is {value!r} instead of {pattern}")

    def close(self):
        for connection in self.connections.values():
            connection.close()


def matches(name, argument, value):
    match name:
        case "any":
            return True
        case "text":
            return isinstance(value, str)
        case "id":
            return isinstance(value, str) and value != ""
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "failed":
            return isinstance(value, dict) and value.keys() == {"exception", "error"} and isinstance(value["exception"], str) \
                and isinstance(value["error"], str | None)
        case "invalid":
            return isinstance(value, dict) and value.keys() == {"error"} and isinstance(value["error"], str)
        case "starts":
            return isinstance(value, str) and value.startswith(argument)
        case "error-starts":
            return isinstance(value, dict) and value.keys() == {"error"} and str(value["error"]).startswith(argument)
    raise AssertionError(f"an unknown pattern: ${name}")


def check_envelope(request, answer):
    """Checks what holds for every answer. The request is None if the server cannot have understood it."""
    if request is None:
        echoed = {"action": None, "body": {}, "headers": {}}
    else:
        echoed = {"action": request.get("action"), "body": request.get("body", {}), "headers": request.get("headers", {})}
    # Only a request to authenticate that the schema allows is not echoed.
    hidden = {"action": "authenticate", "body": {}, "headers": {}}
    if answer.keys() != {"request", "body", "headers"} or answer["headers"].keys() != {"status"} or type(answer["headers"]["status"]) is not int:
        raise Failed(f"not an answer: {answer!r}")
    accepted = [echoed | {"api": "v2"}]
    if echoed["action"] == "authenticate":
        accepted.append(hidden | {"api": "v2"})
    if not echoed["headers"]:
        # Upstream shows null and [] as {}.
        accepted.append(echoed | {"headers": {}, "api": "v2"})
    if answer["request"] not in accepted:
        raise Failed(f"the answer echoes {answer['request']!r} instead of {echoed!r}")


def load():
    cases = [json.loads(line) for line in CASES.read_text().splitlines() if line]
    for case in cases:
        assert case.keys() <= {"section", "case", "steps", "format", "needs"}, case
        for step in case["steps"]:
            assert ("ours" in step or "official" in step) == ("why" in step), f"a difference without a reason: {case['case']}"
    return cases


def converse(server, keystone, case, binary):
    """Has one conversation. Returns what fails, or None."""
    conversation = Conversation(server, keystone, binary)
    number = 0
    try:
        for number, step in enumerate(case["steps"], 1):
            conversation.step(step)
        return None
    except (Failed, AssertionError, OSError, WebSocketException) as error:
        shown = json.dumps(case["steps"][number - 1], ensure_ascii=False)
        name = f"{case['section']} {case['case']} ({'binary' if binary else 'text'})"
        return f"FAILED {name}, step {number}: {str(error) or type(error).__name__}\n    {shown[:400]}"
    finally:
        conversation.close()


def start(server, with_keystone, keystone, only="", quick=False, place=""):
    """Starts the cases that wait for something to expire. Returns a function that runs the others, prints each that fails, and returns whether
    all passed. Quickly, it leaves out those that wait."""
    chosen = [(with_keystone if case.get("needs") else server, keystone, case, binary)
              for case in load() for binary in (False, True)
              if only in case["case"] and case.get("format") != ("text" if binary else "binary") and (with_keystone or "needs" not in case)]
    waiting = [each for each in chosen if any("seconds" in step for step in each[2]["steps"])]
    if quick:
        chosen, waiting = [each for each in chosen if each not in waiting], []
    pool = ThreadPoolExecutor(len(waiting) + 1)
    started = [pool.submit(converse, *each) for each in waiting]

    def finish():
        results = [converse(*each) for each in chosen if each not in waiting]
        results += [each.result() for each in started]
        pool.shutdown()
        failures = [result for result in results if result]
        for failure in failures:
            print(failure.replace("FAILED", f"FAILED{place}", 1))
        print(f"cases{place}: {len(results) - len(failures)} conversations pass, {len(failures)} fail")
        return not failures

    return finish
