"""Tests the pages in a real browser (headless Chromium, over its DevTools protocol): they draw, log no error, and fit.

    browser.py BINARY

Writes screenshots to target/browser.
"""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import websockets

BINARY = sys.argv[1]
SEEN = pathlib.Path(__file__).resolve().parents[2] / "target/browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_SECONDS = 60


class Server:
    def __init__(self):
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--store", "memory", "--latency-interval", "250ms"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "listen=" in line)
        self.port = int(re.search(r"listen=127\.0\.0\.1:(\d+)", line)[1])
        self.control = int(re.search(r"control=127\.0\.0\.1:(\d+)", line)[1])

    def bench(self, *arguments):
        address = ["--url", f"ws://127.0.0.1:{self.port}/", "--control", f"http://127.0.0.1:{self.control}"]
        return subprocess.Popen([BINARY, "bench", *arguments, *address], stdout=subprocess.DEVNULL)


class Browser:
    """A browser with one tab."""

    async def __aenter__(self):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
                   f"--user-data-dir={self.home.name}", "about:blank"]
        for name in BROWSERS:
            with contextlib.suppress(FileNotFoundError):
                self.process = subprocess.Popen([name, *options], stderr=subprocess.PIPE, text=True)
                break
        else:
            sys.exit(f"none of {', '.join(BROWSERS)} is installed")
        line = next(line for line in self.process.stderr if "DevTools listening on" in line)
        port = re.search(r":(\d+)/", line)[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self.socket = await websockets.connect(tab["webSocketDebuggerUrl"], max_size=None)
        self.number, self.answers, self.wrong = 0, {}, []
        self.reader = asyncio.create_task(self.read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_):
        self.reader.cancel()
        await self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=60)
        self.home.cleanup()

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                self.answers.pop(message["id"]).set_result(message)
            elif message["method"] == "Runtime.exceptionThrown":
                self.wrong.append(message["params"]["exceptionDetails"])
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.wrong.append(message["params"]["entry"])
            elif message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])

    async def call(self, method, **parameters):
        self.number += 1
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        message = await asyncio.wait_for(answer, WAIT_SECONDS)
        assert "error" not in message, message
        return message["result"]

    async def look(self, width, height, scheme, medium=""):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", media=medium, features=features)
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def open(self, url):
        self.asked = []
        await self.call("Page.navigate", url=url)

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    async def until(self, expression):
        """Waits until the expression has a true value, and returns it. It may fail before the page has loaded."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            value = None if "exceptionDetails" in result else result["result"].get("value")
            if value:
                return value
            assert time.monotonic() < end, f"never: {expression}: {result}"
            await asyncio.sleep(0.1)

    async def picture(self, name):
        taken = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        SEEN.mkdir(parents=True, exist_ok=True)
        (SEEN / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))

    async def fits(self):
        """Checks that the page does not scroll horizontally."""
        wide = await self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page is {wide} pixels too wide"


# Returns the number of colours in a drawing. A blank drawing has one.
COLOURS = """(id => { const c = document.getElementById(id), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return new Set(new Uint32Array(d.buffer)).size; })"""


async def live(browser, server):
    load = server.bench("both", "--rate", "5000", "--seconds", "20", "--warmup", "0", "--consumers", "2")
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
        await browser.look(width, 1700, scheme)
        await browser.open(f"http://127.0.0.1:{server.control}/")
        await browser.until("document.getElementById('state').textContent === 'live'")
        await browser.until("document.querySelectorAll('#connections td').length > 0")
        await browser.until("/ k$/.test([...document.querySelectorAll('.tile')][0]?.querySelector('b').textContent)")
        await browser.until("intervals.length > 12")
        for table, rows in (("shards", 2), ("stages", 6), ("queues", 2)):
            await browser.until(f"document.querySelectorAll('#{table} tr').length >= {rows}")
        for canvas in ("rates", "produce", "deliver", "heat"):
            assert await browser.value(f"{COLOURS}('{canvas}')") > 3, f"{canvas} is blank"
        assert "bench" in await browser.value("document.getElementById('queues').textContent")
        assert "store memory" in await browser.until("document.getElementById('about').textContent")
        await browser.fits()
        await browser.picture(f"live-{scheme}-{width}")
    assert all(f":{server.control}/" in url or url.startswith("data:") for url in browser.asked), browser.asked
    load.terminate()
    load.wait()


async def report(browser, server, home):
    results = []
    for name, load in (("one", ["both", "--rate", "5000", "--runs", "2"]), ("another of a longer name", ["produce"])):
        results.append(os.path.join(home, f"{len(results)}.json"))
        load = [*load, "--seconds", "2", "--warmup", "0.2", "--name", name, "--out", results[-1]]
        assert server.bench(*load).wait() == 0
    page = os.path.join(home, "report.html")
    subprocess.run([BINARY, "report", *results, "--html", page], check=True, stderr=subprocess.DEVNULL)
    papers = set()
    for scheme, width, medium in (("light", 1280, ""), ("dark", 1280, ""), ("light", 390, ""), ("dark", 800, "print")):
        await browser.look(width, 900, scheme, medium)
        await browser.open(f"file://{page}")
        await browser.until("document.readyState === 'complete' && document.querySelectorAll('svg').length >= 8")
        await browser.fits()
        # The texts of a drawing must not overlap.
        lies = await browser.value("""[...document.querySelectorAll('svg')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
          return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([, q]) =>
            p.left + 1 < q.right && q.left + 1 < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom).map(([b]) => a + ' on ' + b)); })""")
        assert not lies, lies
        papers.add((medium or scheme, await browser.value("getComputedStyle(document.documentElement).backgroundColor")))
        assert browser.asked == [f"file://{page}"], f"the page must not load anything else: {browser.asked}"
        await browser.picture(f"report-{medium or scheme}-{width}")
    of = dict(papers)
    assert of["light"] == of["print"] != of["dark"], papers


async def main():
    server = Server()
    try:
        async with Browser() as browser:
            await live(browser, server)
            print("chromium: the live page draws in light, dark and narrow")
            with tempfile.TemporaryDirectory() as home:
                await report(browser, server, home)
            print("chromium: the report draws in light, dark, narrow and print, and loads nothing else")
            assert not browser.wrong, browser.wrong
    finally:
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0


asyncio.run(main())
