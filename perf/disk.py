"""Measures a disk without a server: writes and syncs as the log does."""

import mmap
import os
import shutil
import time

ROUND = 1 << 20


def emptied(directory):
    """Creates an empty directory. Returns once the disk has forgotten what was in it: until then, it may be slower."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.sync()


def bare(directory, size, seconds):
    """Writes `size` bytes to a file in `directory` and syncs them, repeatedly. Returns the time of each write in seconds."""
    directory.mkdir(parents=True, exist_ok=True)
    path, length = directory / "bare", 256 << 20
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    try:
        block = mmap.mmap(-1, ROUND)
        for at in range(0, length, ROUND):
            os.pwrite(descriptor, block, at)
        os.fsync(descriptor)
        buffer, at, took = mmap.mmap(-1, size), 0, []
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < until:
            os.pwrite(descriptor, buffer, at)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - begun)
            at = (at + size) % (length - size) // 4096 * 4096
        return took
    finally:
        os.close(descriptor)
        path.unlink()
