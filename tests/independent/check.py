"""Tests the real binary with clients of other projects. Prints each check that passes; stops at the first failure.

    check.py BINARY
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import urllib.request

import websockets
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from prometheus_client.parser import text_string_to_metric_families

# The labels, all of which have few values.
LABELS = ("shard", "status", "kind", "stage", "le", "result", "reason", "version", "suite", "provider")
COUNTER_SUFFIXES = ("_total",)
UNITS = ("_bytes", "_seconds", "_bytes_per_second")
MESSAGES = 20_000


class Server:
    def __init__(self, binary, latency_log):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--cores", "0", "--store", "memory", "--test-echo"]
        command += ["--latency-log", latency_log, "--latency-interval", "200ms"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "listen=" in line)
        self.port = int(re.search(r"listen=127\.0\.0\.1:(\d+)", line)[1])
        self.control = int(re.search(r"control=127\.0\.0\.1:(\d+)", line)[1])

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0


async def echo(port):
    url = f"ws://127.0.0.1:{port}/echo"
    async with websockets.connect(url, max_size=None) as peer:
        assert "Sec-WebSocket-Extensions" not in peer.response.headers, "no extension must be negotiated"
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20):
            text, data = "µ" * (size // 2), os.urandom(size)
            for message in (text, data):
                # The echo begins before the message ends, and the server does not read from a client that does not read.
                sending = asyncio.create_task(peer.send(message))
                assert await peer.recv() == message
                await sending
        # Fragments with pings between them.
        async def fragments():
            for piece in ("frag", "ment", "s €", ""):
                yield piece
                pong = await peer.ping(b"between")
                await asyncio.wait_for(pong, 10)
        sending = asyncio.create_task(peer.send(fragments()))
        assert await peer.recv() == "fragments €"
        await sending
        messages = [os.urandom(n % 500) for n in range(2_000)]
        async def send():
            for message in messages:
                await peer.send(message)
        sending = asyncio.create_task(send())
        for message in messages:
            assert await peer.recv() == message
        await sending
        await peer.close(4321, "bye")
        assert (peer.close_code, peer.close_reason) == (4321, "")
    try:
        await websockets.connect(f"ws://127.0.0.1:{port}/", subprotocols=["chat"])
        raise AssertionError("an unknown subprotocol was accepted")
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 400
    async with websockets.connect(f"ws://127.0.0.1:{port}/", subprotocols=["queuing-streaming.v1"]) as peer:
        assert peer.subprotocol == "queuing-streaming.v1"
        await peer.send("text")
        try:
            await peer.recv()
            raise AssertionError("text was accepted")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 1003


def metrics(control):
    with urllib.request.urlopen(f"http://127.0.0.1:{control}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        page = answer.read().decode()
    families = list(text_string_to_metric_families(page))
    assert len(families) > 20
    for family in families:
        # The rules of `promtool check metrics`.
        assert re.fullmatch(r"millstream_[a-z_]+", family.name), family.name
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        for sample in family.samples:
            is_counter = family.type == "counter"
            assert sample.name.endswith(COUNTER_SUFFIXES) == is_counter, sample.name
            for name in sample.labels:
                assert name in LABELS, f"an unbounded label: {name}"
        for word in ("kib", "kilobytes", "ms", "milliseconds", "us"):
            assert word not in family.name.split("_"), f"{family.name}: not a base unit"
        if "bytes" in family.name:
            assert family.name.endswith(UNITS), family.name
    for status in ("400", "429", "503"):
        assert any(s.labels.get("status") == status for f in families for s in f.samples)
    return len(families)


def latency_log(path):
    """Checks the number of values and the highest value of each stage in the latency log."""
    reader = HistogramLogReader(path, HdrHistogram(1, 3_600_000_000_000, 3))
    stages = {}
    while (interval := reader.get_next_interval_histogram()) is not None:
        stage = stages.setdefault(interval.get_tag(), HdrHistogram(1, 3_600_000_000_000, 3))
        stage.add(interval)
    for name in ("parse", "commit", "ack", "produce"):
        assert stages[name].get_total_count() == MESSAGES, (name, stages[name].get_total_count())
    assert stages["commit"].get_value_at_percentile(50) <= stages["produce"].get_value_at_percentile(50)
    assert 0 < stages["produce"].get_max_value() < 60_000_000_000
    return len(stages)


def produce(binary, port):
    command = [binary, "bench", "produce", "--count", str(MESSAGES), "--url", f"ws://127.0.0.1:{port}/"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    path = os.path.join(tempfile.mkdtemp(), "latency.hlog")
    server = Server(sys.argv[1], path)
    try:
        asyncio.run(echo(server.port))
        print("websockets: echo, fragments, pings, closing and subprotocols work")
        print(f"prometheus-client: {metrics(server.control)} metric families are valid")
        produce(sys.argv[1], server.port)
    finally:
        server.stop()
    print(f"hdrhistogram: {latency_log(path)} stages of the latency log are valid")


main()
