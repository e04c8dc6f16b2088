"""Hostile clients for perf/soak. Each kind runs in its own process with the lowest priority, until the attack ends."""

import multiprocessing
import os
import random
import resource
import selectors
import signal
import socket
import struct
import subprocess
import time

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"X-Project-Id: hostile\r\n\r\n"
)


def frame(first, payload):
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + bytes(4) + payload


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def pb(body):
    return varint(len(body)) + body


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


APPEND = frame(0x02, pb(field(8, field(1, b"hostile"))))
GET = frame(0x02, pb(field(1, field(1, b"backlog"))))
CREDIT = frame(0x00, pb(b"\x10" + varint(1 << 40)))
MESSAGE = frame(0x00, pb(b"\x08\x3c" + field(2, b"some payload")))


class Crowd:
    """A number of connections. A kind calls `refill` and `reap` to replace those that have ended."""

    def __init__(self, port, count, greeting):
        self.port, self.count, self.greeting = port, count, greeting
        self.open = []

    def refill(self, at_once=200):
        for _ in range(min(at_once, self.count - len(self.open))):
            try:
                one = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                one.setblocking(False)
                one.send(self.greeting)
                self.open.append(one)
            except OSError:
                time.sleep(0.05)

    def reap(self):
        """Reads available bytes, and closes connections that the server has ended."""
        selector = selectors.DefaultSelector()
        for one in self.open:
            selector.register(one, selectors.EVENT_READ)
        for key, _ in selector.select(0):
            try:
                data = key.fileobj.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.open.remove(key.fileobj)
                key.fileobj.close()
        selector.close()


def dribble(port, _):
    crowd, at = Crowd(port, 1000, b"G"), 1
    while True:
        crowd.refill()
        for one in crowd.open:
            try:
                one.send(HANDSHAKE[at : at + 1])
            except OSError:
                pass
        at = at % (len(HANDSHAKE) - 5) + 1
        crowd.reap()
        time.sleep(0.5)


def endless(port, _):
    crowd = Crowd(port, 200, b"GET / HTTP/1.1\r\nX-Long: ")
    while True:
        crowd.refill()
        for one in crowd.open:
            try:
                one.send(b"x" * 512)
            except OSError:
                pass
        crowd.reap()
        time.sleep(0.5)


def announce(port, _):
    """5,000 connections announce a pb of 8 MiB and send one byte of it."""
    crowd = Crowd(port, 5000, HANDSHAKE + APPEND + frame(0x00, varint(8 << 20) + b"\x08"))
    while True:
        crowd.refill()
        crowd.reap()
        time.sleep(0.2)
        # Connections stay open after the 408, so some are closed every minute to make room for new ones.
        if int(time.time()) % 60 == 0:
            for one in crowd.open[:2500]:
                one.close()
            del crowd.open[:2500]


def lengths(port, _):
    bad = [
        HANDSHAKE + b"\x82\xff\x80" + bytes(11),
        HANDSHAKE + b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4) + b"\xff" * 100,
        HANDSHAKE + APPEND + frame(0x00, b"\x80" * 9 + b"\x01"),
    ]
    for number in range(1 << 60):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(bad[number % 3])
            one.settimeout(0.05)
            try:
                one.recv(4096)
            except OSError:
                pass


def slow_readers(port, _):
    crowd = Crowd(port, 100, HANDSHAKE + GET + CREDIT)
    while True:
        crowd.refill()
        for one in list(crowd.open):
            try:
                if not one.recv(1):
                    raise OSError
            except BlockingIOError:
                pass
            except OSError:
                crowd.open.remove(one)
                one.close()
        time.sleep(1)


def vanish(port, _):
    for number in range(1 << 60):
        try:
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            one.sendall(HANDSHAKE + APPEND + MESSAGE + MESSAGE[: number % len(MESSAGE)])
            # Close with a reset in the middle of the operation.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        except OSError:
            pass
        time.sleep(0.003)


def pings(port, _):
    storm, at = frame(0x89, b"p" * 125) * 500, 0
    crowd = Crowd(port, 2, HANDSHAKE)
    while True:
        crowd.refill()
        for one in crowd.open:
            try:
                # A partial send makes the next one invalid. The server then closes the connection, and a new one replaces it.
                one.send(storm)
            except OSError:
                pass
        crowd.reap()


def descriptors(port, _):
    """Regularly opens as many connections as the server's limit of open files allows, and more."""
    while True:
        crowd = Crowd(port, 3000, b"")
        for _ in range(15):
            crowd.refill()
        time.sleep(2)
        for one in crowd.open:
            one.close()
        time.sleep(40)


def stopped(port, binary):
    """Stops real clients during their operations, and replaces them after the server has closed them."""
    url = f"ws://127.0.0.1:{port}/"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    while True:
        clients = [subprocess.Popen([binary, "consume", "backlog", "--project", "hostile", "--url", url], **quiet) for _ in range(5)]
        produce = ["produce", "hostile", "--project", "hostile", "--count", "1000000000", "--size", "100", "--ttl", "60"]
        clients += [subprocess.Popen([binary, *produce, "--url", url], **quiet) for _ in range(2)]
        time.sleep(0.3)
        for client in clients:
            client.send_signal(signal.SIGSTOP)
        time.sleep(100)
        for client in clients:
            client.kill()
            client.wait()


def garbage(port, _):
    chance = random.Random(1)
    while True:
        data = bytearray(HANDSHAKE + APPEND + MESSAGE * chance.randrange(5) + GET + CREDIT)
        for _ in range(chance.randrange(8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            data = chance.randbytes(chance.randrange(1, 4000))
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
                one.sendall(data)
                one.settimeout(0.02)
                one.recv(65536)
        except OSError:
            pass


KINDS = [dribble, endless, announce, lengths, slow_readers, vanish, pings, descriptors, stopped, garbage]


def run(kind, port, binary):
    os.nice(19)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.setpgrp()
    while True:
        try:
            kind(port, binary)
        except OSError:
            # The server may refuse or close any of these connections.
            time.sleep(0.05)


class Attack:
    """An attack by all kinds of clients at once."""

    def __init__(self, port, binary, kinds=KINDS):
        self.processes = [multiprocessing.Process(target=run, args=(kind, port, binary)) for kind in kinds]
        for process in self.processes:
            process.start()

    def end(self):
        for process in self.processes:
            try:
                # The group includes the clients that the process has started.
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
            process.join()
