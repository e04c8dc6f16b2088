"""A client of the streaming protocol: protobuf by hand (protocol section 10), on `websockets`."""

import asyncio
import contextlib

import websockets

CONTINUE, CREATED, UNAUTHORIZED, FORBIDDEN = 100, 201, 401, 403
# Numbers of fields.
CODE, EXPIRES = 1, 100
PAYLOADS, TOKEN, RENEWAL = 2, 102, 106


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def pb(*fields):
    """Encodes fields: pairs of a number and an integer, a text or bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def fields(data):
    """Decodes a pb: the values of each field, by its number."""
    found, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        else:
            assert tag & 7 == 0, f"wire type {tag & 7}"
        found.setdefault(tag >> 3, []).append(value)
    return found


class Status:
    def __init__(self, data):
        found = fields(data)
        self.code, self.expires = found[CODE][0], found.get(EXPIRES, [None])[0]
        self.reason = found.get(2, [b""])[0].decode()


class Operation:
    """An operation on a connection. `setup` is the Status of its setup's answer."""

    async def begin(self, peer, setup):
        self.requests = asyncio.Queue()
        self.requests.put_nowait(setup)
        self.sending = asyncio.create_task(self.send(peer))
        self.frames = peer.recv_streaming(decode=False)
        self.setup = self.read_setup(await self.next())
        return self

    async def send(self, peer):
        async def frames():
            while (request := await self.requests.get()) is not None:
                yield varint(len(request)) + request
        # A connection that closes is told by `next`.
        with contextlib.suppress(websockets.ConnectionClosed):
            await peer.send(frames())

    async def next(self):
        """Returns the next pb of the server, or None at the end of its half. Raises if the connection closes."""
        while True:
            frame = await asyncio.wait_for(anext(self.frames, None), 30)
            if frame is None:
                return None
            if frame:
                length, at = read_varint(frame, 0)
                assert length == len(frame) - at, "not one pb in a frame"
                return frame[at:]

    def ask(self, request):
        self.requests.put_nowait(request)

    async def end(self):
        """Ends the client's half, and reads the rest of the server's."""
        self.requests.put_nowait(None)
        while (response := await self.next()) is not None:
            self.take(fields(response))

    async def ended(self):
        """Reads until the server ends the operation. Returns the status that it gives."""
        status = None
        while (response := await self.next()) is not None:
            status = self.take(fields(response)) or status
        self.requests.put_nowait(None)
        return status

    async def renew(self, token):
        """Shows another token. Returns the answer."""
        self.renewal = None
        self.ask(pb((TOKEN, token)))
        return await self.until(lambda: self.renewal)

    async def until(self, is_done):
        while not (done := is_done()):
            response = await self.next()
            assert response is not None, f"the operation ended, {self.failure and self.failure.code}"
            self.take(fields(response))
        return done

    def take(self, response):
        """Notes what a response says. Returns the status that ends the operation, if it has one."""
        if RENEWAL in response:
            self.renewal = Status(response[RENEWAL][0])


class Produce(Operation):
    """Producing: `stored` messages have the status 201."""

    stored, sent, renewal, failure = 0, 0, None, None

    @classmethod
    async def open(cls, peer, queue):
        return await cls().begin(peer, pb((8, pb((1, queue)))))

    def read_setup(self, data):
        return Status(fields(data)[1][0])

    def produce(self, *payloads):
        self.sent += len(payloads)
        self.ask(pb((1, 600), *((PAYLOADS, payload) for payload in payloads)))

    def take(self, response):
        super().take(response)
        if 1 not in response:
            return None
        status = Status(response[1][0])
        if status.code == CREATED:
            self.stored = response[2][0]
            return None
        self.failure = status
        return status

    async def all_stored(self):
        await self.until(lambda: self.stored == self.sent)


class Consume(Operation):
    """Consuming from the oldest message: `payloads` in the order in which they come."""

    renewal, failure = None, None

    @classmethod
    async def open(cls, peer, queue):
        operation = cls()
        operation.payloads = []
        await operation.begin(peer, pb((1, pb((1, queue), (2, 1)))))
        operation.ask(pb((2, 1 << 40)))
        return operation

    def read_setup(self, data):
        return Status(data)

    def take(self, response):
        super().take(response)
        for message in response.get(2, []):
            self.payloads.append(fields(message)[6][0])
        if 1 in response:
            self.failure = Status(response[1][0])
        return self.failure

    async def received(self, count):
        await self.until(lambda: len(self.payloads) >= count)


async def refusal(connecting):
    """Returns the HTTP status of a handshake: 101, or that of the refusal."""
    try:
        peer = await connecting
    except websockets.InvalidStatus as refused:
        return refused.response.status_code
    await peer.close()
    return 101


async def closed(peer):
    """Waits for the server's Close. Returns its code and its reason."""
    await asyncio.wait_for(peer.wait_closed(), 30)
    return peer.close_code, peer.close_reason
