"""Tests the Zaqar front with the official server's tests, the official client, and the official server itself. Prints what passes.

    python tests/independent/zaqar BINARY              tests this Millstream, with its log and in memory
    python tests/independent/zaqar --url WS_URL        tests a server without authentication that runs
    python tests/independent/zaqar --official          tests the official server, and so these tests

More options choose what to run: `--only upstream,client,cases,sequences`, `--case TEXT` for cases with this text in their name, `--quick`
without those that wait a minute, `--seed N` and `--sequences N` for other sequences.

| file | one concept |
| --- | --- |
| `servers`, `official` | the servers under test |
| `keystone` | a Keystone that knows a few tokens |
| `wire` | a client that sends anything |
| `upstream` | runs the official server's own tests over a socket |
| `client` | uses the official client |
| `cases`, `cases.jsonl` | conversations by hand |
| `sequences` | random requests to the official server and to the one under test |
"""

import argparse
import sys

import cases
import client
import sequences
import servers
import upstream
from keystone import Keystone

PARTS = ("upstream", "client", "cases", "sequences")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?")
    parser.add_argument("--url")
    parser.add_argument("--official", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--case", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=sequences.SEED)
    parser.add_argument("--sequences", type=int, default=sequences.SEQUENCES)
    options = parser.parse_args()
    if [bool(options.binary), bool(options.url), options.official].count(True) != 1 or not set(options.only) <= set(PARTS):
        parser.error("exactly one of BINARY, --url and --official is needed, and --only knows " + ", ".join(PARTS))
    keystone = Keystone()
    started = [keystone]
    try:
        passed = run(options, keystone, started)
    finally:
        for each in reversed(started):
            each.stop()
    sys.exit(not passed)


def run(options, keystone, started):
    def start(server):
        started.append(server)
        return server

    with_keystone = in_memory = None
    if options.official:
        server = start(servers.Official())
        with_keystone = start(servers.Official(keystone))
    elif options.url:
        server = servers.Running(options.url)
    else:
        server = start(servers.Millstream(options.binary))
        with_keystone = start(servers.Millstream(options.binary, keystone))
        in_memory = start(servers.Millstream(options.binary, store="memory"))
    # Those that wait begin first, and end last.
    finish_cases = cases.start(server, with_keystone, keystone, options.case, options.quick) if "cases" in options.only else None
    passed = True
    if "client" in options.only:
        # The official server without authentication ends the connection on `authenticate`, which this client sends.
        client.run(None if options.official else server.url, with_keystone and with_keystone.url, keystone)
    if "upstream" in options.only:
        passed &= upstream.run(server.url, with_keystone and with_keystone.url, keystone)
    if "sequences" in options.only:
        passed &= sequences.run(start(servers.Official()), server, options.seed, options.sequences)
    if in_memory and "cases" in options.only:
        passed &= cases.start(in_memory, None, None, options.case, quick=True, place=" in memory")()
    if finish_cases:
        passed &= finish_cases()
    return passed


main()
