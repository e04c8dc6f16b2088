"""A client of the Zaqar v2 WebSocket API that sends anything, also what no library would."""

import itertools
import json
import uuid

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# How long an answer may take. The official server takes a second for its longest.
ANSWER_SECONDS = 20

numbers = itertools.count(1 << 16 | 1)


def address():
    """Returns another loopback address each time: the failures of an address to authenticate are throttled."""
    number = next(numbers)
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Connection:
    """A connection that asks and waits for the answer. Notifications that arrive meanwhile are kept."""

    def __init__(self, url):
        self.socket = connect(url, proxy=None, max_size=None, compression=None, open_timeout=ANSWER_SECONDS, close_timeout=ANSWER_SECONDS,
                              source_address=(address(), 0))
        self.notifications = []

    def ask_raw(self, payload, binary):
        """Sends a payload and returns the payload of the answer, a str if that is a text message."""
        self.send(payload, binary)
        return self.answer()

    def send(self, payload, binary, pieces=1):
        """Sends a payload in this many fragments."""
        payload = payload.encode() if isinstance(payload, str) else payload
        size = -(-len(payload) // pieces)
        self.socket.send([payload[i * size:][:size] for i in range(pieces)] if pieces > 1 else payload, text=not binary)

    def answer(self):
        """Returns the payload of the next answer."""
        while True:
            answer = self.socket.recv(timeout=ANSWER_SECONDS)
            if "request" in decode(answer):
                return answer
            self.notifications.append(answer)

    def ask(self, request, binary=False):
        """Sends a request as JSON or MessagePack, and returns the answer. Its format must be that of the request."""
        answer = self.ask_raw(encode(request, binary), binary)
        assert isinstance(answer, bytes) == binary, f"the answer has the other format: {answer!r}"
        return decode(answer)

    def notification(self, seconds=ANSWER_SECONDS):
        """Returns the payload of the next notification, or None if there is none in time."""
        if self.notifications:
            return self.notifications.pop(0)
        try:
            message = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return None
        assert "request" not in decode(message), f"an answer that nobody asked for: {message!r}"
        return message

    def ended(self):
        """Waits until the server closes the connection. Returns the code and the reason, or 1006 if it just ended."""
        try:
            message = self.socket.recv(timeout=ANSWER_SECONDS)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
        raise AssertionError(f"a message instead of the end: {message!r}")

    def close(self):
        self.socket.close()


def encode(document, binary):
    return msgpack.packb(document) if binary else json.dumps(document)


def decode(payload):
    return msgpack.unpackb(payload, strict_map_key=False) if isinstance(payload, bytes) else json.loads(payload)


def headers(project, client=None):
    return {"Client-ID": client or str(uuid.uuid4()), "X-Project-ID": project}
