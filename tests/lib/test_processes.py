# SPDX-License-Identifier: GPL-2.0-or-later
"""What processes have used, held against processes that use a known amount."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import processes
import pytest

SIZE = 64 << 20
HOLD = f"""
import sys
held = bytearray(b"x") * {SIZE}
print("held", flush=True)
sys.stdin.readline()
del held
print("free", flush=True)
sys.stdin.readline()
"""
SPIN = """
import sys, time
while time.process_time() < 0.5:
    pass
print("spun", flush=True)
sys.stdin.readline()
"""


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen]:
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.stdin.close()


def test_peak_is_kept_until_it_is_reset() -> None:
    with program(HOLD) as child:
        assert child.stdout.readline() == "held\n"
        assert processes.peak_rss(child.pid) >= SIZE
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "free\n"
        assert processes.peak_rss(child.pid) >= SIZE
        processes.reset_peak(child.pid)
        assert processes.peak_rss(child.pid) < SIZE


def test_processor_time() -> None:
    with program(SPIN) as child:
        assert child.stdout.readline() == "spun\n"
        used = processes.cpu_seconds(child.pid)
        assert used == pytest.approx(0.5, abs=0.15)
        assert processes.cpu_seconds(child.pid, child.pid) == pytest.approx(used, abs=0.02)


def test_strangers_are_not_ourselves() -> None:
    """A second of another process's work is somebody else's, unless it is named."""
    with program(SPIN) as child:
        named = processes.Strangers.now(time.monotonic(), [child.pid])
        unnamed = processes.Strangers.now(time.monotonic(), [])
        assert child.stdout.readline() == "spun\n"
        later = time.monotonic()
        with_it = processes.Strangers.now(later, [child.pid]).share(named)
        without = processes.Strangers.now(later, []).share(unnamed)
    seconds = (later - named.when) * os.cpu_count()
    assert (without - with_it) * seconds == pytest.approx(0.5, abs=0.2)


def test_loopback_counts_what_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = processes.loopback_bytes()
        with socket.create_connection(server.getsockname()) as sender:
            receiver, _ = server.accept()
            thread = threading.Thread(target=sender.sendall, args=[bytes(SIZE)])
            thread.start()
            left = SIZE
            while left:
                left -= len(receiver.recv(min(left, 1 << 20)))
            thread.join()
            receiver.close()
        assert processes.loopback_bytes() - before >= SIZE
