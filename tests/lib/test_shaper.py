# SPDX-License-Identifier: GPL-2.0-or-later
"""The link against real sockets: what it does to bytes, to time and to connections."""

import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from bottleneck import ARRIVED, FLIPPED, QUEUE, TURN_MOST
from deadlines import TooLate
from shaper import PROGRAM, Address, RandomCuts, Shaper, ShaperError
from shaperproxy import DOORS, KERNEL

TIMEOUT = 20
MBIT = 1e6
WARM_UP = 0.4               # seconds
WINDOW = 3.2                # seconds a rate is measured over
WINDOWS = 4                 # tries at most, where other work takes the processors from us


class Server:
    """Listens on loopback or a path; keeps or echoes what each connection says."""

    def __init__(self, echo: bool = False, path: Path | None = None):
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(str(path) if path else ("127.0.0.1", 0))
        self._listener.listen(64)
        self.address: Address = path or self._listener.getsockname()
        self._echo = echo
        self._changed = threading.Condition()
        self._samples: list[tuple[float, int, int]] = []    # when, from whom, how many bytes
        self._data: dict[int, bytearray] = {}
        self.keep = True
        self.ends: dict[int, str] = {}
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                number = len(self.connections) - 1
                threading.Thread(target=self._serve, args=[connection, number],
                                 daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        end = "fin"
        try:
            while block := connection.recv(1 << 18):
                with self._changed:
                    self._samples.append((time.monotonic(), number, len(block)))
                    if self.keep:
                        self._data.setdefault(number, bytearray()).extend(block)
                    self._changed.notify_all()
                if self._echo:
                    connection.sendall(block)
        except OSError:
            end = "reset"
        connection.close()
        with self._changed:
            self.ends[number] = end
            self._changed.notify_all()

    def data(self, number: int = 0) -> bytes:
        with self._changed:
            return bytes(self._data.get(number, b""))

    def came(self, since: float, until: float) -> tuple[float, Counter[int]]:
        """Return the bits a second in that time, and the bytes of each connection."""
        with self._changed:
            inside = [one for one in self._samples if since <= one[0] <= until]
        parts: Counter[int] = Counter()
        for _, number, size in inside:
            parts[number] += size
        first, last = inside[0], inside[-1]
        return (sum(parts.values()) - first[2]) * 8 / (last[0] - first[0]), parts

    def wait_data(self, data: bytes, number: int = 0, timeout: float = TIMEOUT) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._data.get(number) == data, timeout)

    def wait_ends(self, count: int, timeout: float = TIMEOUT) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.ends) >= count, timeout)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def sink() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def echo() -> Iterator[Server]:
    server = Server(echo=True)
    yield server
    server.close()


def dial(address: Address) -> socket.socket:
    made = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
    made.settimeout(TIMEOUT)
    made.connect(address if isinstance(address, tuple) else str(address))
    return made


@contextmanager
def several(address: Address, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(dial(address)) for _ in range(count)]


def read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (block := connection.recv(size - len(data))):
        data += block
    return data


def ask(connection: socket.socket, text: bytes = b"ping") -> float:
    """Have an echo answer; return the time it took."""
    began = time.monotonic()
    connection.sendall(text)
    assert read(connection, len(text)) == text
    return time.monotonic() - began


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_mute(connection: socket.socket, seconds: float = 0.3) -> bool:
    """Tell whether neither bytes nor an end come within that time."""
    return not select.select([connection], [], [], seconds)[0]


def sleeps(link: Shaper, seconds: float = 0.3) -> bool:
    """Tell whether the proxy, which has nothing to do, does nothing."""
    before = link.figures().cpu_seconds
    time.sleep(seconds)                     # time itself is what is waited for
    return link.figures().cpu_seconds - before < seconds / 10


class Load:
    """Connections that send as much as the link takes, until the context ends."""

    def __init__(self, address: Address, count: int):
        self._connections = [dial(address) for _ in range(count)]
        self._threads = [threading.Thread(target=self._send, args=[one])
                         for one in self._connections]

    @staticmethod
    def _send(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(bytes(1 << 18))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
        for connection in self._connections:
            connection.close()


# Rate and delay


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("rate", [25 * MBIT, 100 * MBIT])
def test_rate_is_kept_and_shared(sink: Server, rate: float, count: int) -> None:
    sink.keep = False
    start = time.monotonic()
    with Shaper(sink.address, rate=rate) as link, Load(link.address, count):
        time.sleep(WARM_UP)
        for _ in range(WINDOWS):
            began = time.monotonic()
            time.sleep(WINDOW)              # time itself is what is waited for
            found, parts = sink.came(began, now := time.monotonic())
            _, all_parts = sink.came(start, now)
            # A machine that starves us explains that less came, or later, but never more.
            assert sum(all_parts.values()) * 8 <= 1.01 * rate * (now - start)
            if found == pytest.approx(rate, rel=0.05):
                break
    assert found == pytest.approx(rate, rel=0.05)
    assert len(parts) == count
    for part in parts.values():
        assert part == pytest.approx(sum(parts.values()) / count, rel=0.15)


def test_two_targets_share_the_bottleneck(sink: Server) -> None:
    """Both get what was sent to them, and half of the rate each."""
    rate = 25 * MBIT
    second = Server()
    sink.keep = second.keep = False
    with Shaper(sink.address, rate=rate) as link:
        elsewhere = link.lead(second.address)
        with Load(link.address, 1), Load(elsewhere, 1):
            time.sleep(WARM_UP)
            since = time.monotonic()
            time.sleep(WINDOW)
            parts = [one.came(since, time.monotonic())[0] for one in (sink, second)]
    assert [len(one.connections) for one in (sink, second)] == [1, 1]
    second.close()
    assert sum(parts) < 1.05 * rate
    assert parts[0] == pytest.approx(parts[1], rel=0.15)


def test_a_link_leads_to_few_targets(echo: Server) -> None:
    with Shaper(echo.address) as link:
        for _ in range(DOORS - 1):
            with dial(link.lead(echo.address)) as connection:
                ask(connection)
        with pytest.raises(ShaperError, match=f"{DOORS} targets at most"):
            link.lead(echo.address)


def test_round_trip_takes_the_delay_twice(echo: Server) -> None:
    with Shaper(echo.address, delay=0.04) as link, dial(link.address) as connection:
        trips = [ask(connection) for _ in range(20)]
    assert 0.08 <= min(trips) < 0.085


def test_last_byte_takes_its_time_at_the_bottleneck_and_the_delay(sink: Server) -> None:
    data = bytes(200_000)
    times = []
    with Shaper(sink.address, rate=8 * MBIT, delay=0.1) as link:
        for number in range(4):
            with dial(link.address) as connection:
                began = time.monotonic()
                connection.sendall(data)
                assert sink.wait_data(data, number)
                times.append(time.monotonic() - began)
    assert 0.3 <= min(times) < 0.33


def test_rate_and_delay_change_while_it_runs(echo: Server) -> None:
    data = bytes(200_000)
    with Shaper(echo.address) as link, dial(link.address) as connection:
        free = ask(connection, data)
        link.shape("up", rate=4 * MBIT)     # one way at 0.5 MB a second
        slow = ask(connection, data)
        link.shape(rate=None, delay=0.05)
        far = ask(connection)
        link.shape(delay=0.0)
        near = min(ask(connection) for _ in range(5))
    assert 0.4 <= slow < 0.4 + free + 0.5
    assert 0.1 <= far < 0.5
    assert near < 0.05


def test_sender_feels_a_receiver_that_does_not_take() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
        with Shaper(listener.getsockname()) as link, dial(link.address) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL)
            taker, _ = listener.accept()
            connection.settimeout(1)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 1 << 28:
                    sent += connection.send(bytes(KERNEL))
            assert sleeps(link)
            # Four buffers of the kernel, which doubles what is asked; the queue; what arrived.
            assert QUEUE < sent < 8 * KERNEL + QUEUE + 2 * ARRIVED
            with taker:
                taker.settimeout(TIMEOUT)
                assert len(read(taker, sent)) == sent


def test_queue_is_for_those_that_have_something_to_send(echo: Server) -> None:
    with Shaper(echo.address) as link, several(link.address, 8) as connections:
        for one in connections:
            ask(one)
        link.silence()
        connections[0].settimeout(1)
        with pytest.raises(TimeoutError):
            connections[0].sendall(bytes(1 << 28))
        assert QUEUE - TURN_MOST < link.figures().queued <= QUEUE


def test_processor_time_allows_a_gigabit(sink: Server) -> None:
    sink.keep = False
    with Shaper(sink.address) as link, Load(link.address, 2):
        first = link.figures()
        last = link.wait_figures(lambda now: now.up - first.up > 1 << 27, "128 MiB", 60)
    assert (last.up - first.up) * 8 / (last.cpu_seconds - first.cpu_seconds) > 1000 * MBIT


# Bytes and ends


def test_bytes_come_unharmed_and_are_counted(echo: Server) -> None:
    sent = [random.Random(number).randbytes(500_000 + number) for number in range(4)]
    with Shaper(echo.address, rate=400 * MBIT, delay=0.002) as link, \
            several(link.address, 4) as connections:
        writers = [threading.Thread(target=one.sendall, args=[data])
                   for one, data in zip(connections, sent)]
        for writer in writers:
            writer.start()
        for one, data in zip(connections, sent):
            assert read(one, len(data)) == data
        for writer in writers:
            writer.join(TIMEOUT)
        found = link.figures()
        total = sum(len(data) for data in sent)
        assert (found.up, found.down, found.made, found.open) == (total, total, 4, 4)
        for one in connections:
            one.close()
        closed = link.wait_figures(lambda now: now.open == 0, "the ends of four connections")
        assert (closed.up, closed.down, closed.made, closed.cut) == (total, total, 4, 0)


def test_half_a_connection_may_close(echo: Server) -> None:
    with Shaper(echo.address, delay=0.01) as link, dial(link.address) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, 100) == b"last words"
    assert echo.wait_ends(1) and echo.ends[0] == "fin"


def test_reset_travels_to_the_other_side(echo: Server) -> None:
    with Shaper(echo.address, delay=0.01) as link, dial(link.address) as connection:
        ask(connection)
        reset(connection)
        assert echo.wait_ends(1) and echo.ends[0] == "reset"
        link.wait_figures(lambda now: now.open == 0, "the end of the connection")


def test_reset_reaches_a_dialler_that_only_sends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            Shaper(listener.getsockname()) as link, dial(link.address) as connection:
        taker, _ = listener.accept()
        connection.sendall(b"x")
        assert read(taker, 1) == b"x"
        connection.sendall(bytes(1000))
        assert select.select([taker], [], [], TIMEOUT)[0]
        taker.close()                       # what it has not read makes it a reset
        with pytest.raises(OSError):
            while True:
                connection.sendall(bytes(1000))
        link.wait_figures(lambda now: now.open == 0, "the end of the connection")


def test_reset_that_only_writing_meets_is_not_taken_for_an_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            Shaper(listener.getsockname()) as link, dial(link.address) as connection:
        taker, _ = listener.accept()
        link.silence(True, "down")
        taker.settimeout(0.5)
        with pytest.raises(TimeoutError):
            taker.sendall(bytes(1 << 28))   # now the proxy does not read what it says
        reset(taker)
        connection.sendall(b"x")
        assert is_mute(connection)
        link.silence(False)
        with pytest.raises(ConnectionResetError):
            while connection.recv(1 << 18):
                pass


def test_target_that_is_not_there_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    with Shaper(nobody) as link:
        with pytest.raises(ConnectionResetError), dial(link.address) as connection:
            connection.recv(1)
        found = link.figures()
        assert (found.made, found.failed, found.open) == (1, 1, 0)


def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    server = Server(echo=True, path=tmp_path / "target")
    with Shaper(tmp_path / "target", listen=tmp_path / "link", delay=0.01) as link:
        assert link.address == tmp_path / "link"
        with several(link.address, 8) as connections:
            for one in connections:
                assert ask(one) >= 0.02
            assert link.cut() == 8
            assert [one.recv(1) for one in connections] == [b""] * 8
    server.close()
    assert not (tmp_path / "link").exists()


def test_unix_target_whose_queue_is_full_is_dialled_again(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "target"))
        listener.listen(0)
        with Shaper(tmp_path / "target") as link, several(link.address, 4) as connections:
            for one in connections:
                one.sendall(b"x")
            link.wait_figures(lambda now: now.made == 4, "four connections")
            listener.settimeout(TIMEOUT)
            takers = [listener.accept()[0] for _ in connections]
            assert [read(taker, 1) for taker in takers] == [b"x"] * 4
            for taker in takers:
                taker.close()


# Faults


def test_cut_resets_both_sides_and_lets_new_ones_in(echo: Server) -> None:
    with Shaper(echo.address) as link, several(link.address, 3) as connections:
        for one in connections:
            ask(one)
        assert link.cut() == 3
        for one in connections:
            with pytest.raises(ConnectionResetError):
                one.recv(1)
        assert echo.wait_ends(3) and set(echo.ends.values()) == {"reset"}
        with dial(link.address) as again:
            ask(again)
            found = link.figures()
        assert (found.made, found.cut, found.open) == (4, 3, 1)


@pytest.mark.parametrize("which", [1, "random"])
def test_cut_of_one_spares_the_others(echo: Server, which: int | str) -> None:
    with Shaper(echo.address) as link, several(link.address, 3) as connections:
        for one in connections:
            ask(one)                        # so that they are accepted in this order
        expected = 1 if which == 1 else int(random.Random(5).random() * 3)
        assert link.cut(which, random.Random(5)) == 1
        with pytest.raises(ConnectionResetError):
            connections[expected].recv(1)
        for one in connections[:expected] + connections[expected + 1:]:
            ask(one)
        assert link.figures().cut == 1
    assert echo.wait_ends(3)


def test_refused_are_reset_and_the_others_go_on(echo: Server) -> None:
    with Shaper(echo.address) as link, dial(link.address) as old:
        ask(old)
        link.refuse()
        with pytest.raises(ConnectionResetError), dial(link.address) as refused:
            refused.recv(1)
        ask(old)
        link.refuse(False)
        with dial(link.address) as new:
            ask(new)
        found = link.figures()
    assert (found.refused, found.made) == (1, 2)


def test_silence_holds_all_back_and_loses_nothing(echo: Server) -> None:
    with Shaper(echo.address) as link, dial(link.address) as connection:
        ask(connection)
        link.silence()
        before = link.figures()
        connection.sendall(b"into the void")
        assert is_mute(connection) and link.figures().up == before.up
        assert sleeps(link)
        link.silence(False)
        assert read(connection, 13) == b"into the void"


def test_silence_hides_a_death(echo: Server) -> None:
    with Shaper(echo.address) as link, dial(link.address) as connection:
        ask(connection)
        link.silence()
        echo.connections[0].shutdown(socket.SHUT_RDWR)
        assert echo.wait_ends(1)
        assert is_mute(connection)
        link.silence(False)
        assert connection.recv(1) == b""


@pytest.mark.parametrize(("direction", "arrives"), [("up", False), ("down", True)])
def test_silence_of_one_direction(echo: Server, direction: str, arrives: bool) -> None:
    with Shaper(echo.address) as link, dial(link.address) as connection:
        link.silence(True, direction)
        link.silence(False, direction)
        ask(connection)
        link.silence(True, direction)
        connection.sendall(b"hello")
        assert echo.wait_data(b"pinghello", timeout=TIMEOUT if arrives else 0.3) is arrives
        assert is_mute(connection)
        link.silence(False, direction)
        assert read(connection, 5) == b"hello"


def test_nobody_is_let_in_during_silence(echo: Server) -> None:
    with Shaper(echo.address) as link:
        link.silence()
        with dial(link.address) as connection:
            connection.sendall(b"anybody?")
            assert is_mute(connection) and link.figures().made == 0
            link.silence(False)
            assert read(connection, 8) == b"anybody?"
        assert len(echo.connections) == 1


@pytest.mark.parametrize(("direction", "after"), [("up", 0), ("down", 0), ("up", 70_001)])
def test_corrupt_flips_one_bit_of_one_byte(echo: Server, direction: str, after: int) -> None:
    with Shaper(echo.address) as link, dial(link.address) as connection:
        ask(connection)
        link.corrupt(direction, after)
        connection.sendall(bytes(100_000))
        came = read(connection, 100_000)
        assert [at for at, byte in enumerate(came) if byte] == [after]
        assert came[after] == FLIPPED and link.figures().flipped == 1
        at_the_target = echo.data()[4:]
        assert bool(any(at_the_target)) is (direction == "up")


def reconnect(link: Shaper, stop: threading.Event, resets: list[float]) -> None:
    """Talk over the link, and dial again whenever it is cut."""
    while not stop.is_set():
        with suppress(ConnectionError), dial(link.address) as connection:
            while not stop.is_set():
                try:
                    ask(connection)
                except (ConnectionError, AssertionError):
                    resets.append(time.monotonic())
                    break


def test_random_cuts_meet_a_session_that_comes_back(echo: Server) -> None:
    stop = threading.Event()
    resets: list[float] = []
    echo.keep = False
    with Shaper(echo.address, delay=0.001) as link:
        threads = [threading.Thread(target=reconnect, args=[link, stop, resets]) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            with RandomCuts(link, times=8, seconds=(0.05, 0.15), seed=3) as cuts:
                made = cuts.wait(TIMEOUT)
            found = link.figures()
        finally:
            stop.set()
            for thread in threads:
                thread.join(TIMEOUT)
    whens = [cut.when for cut in made]
    assert len(made) == 8 and sum(cut.closed for cut in made) == found.cut == len(resets)
    assert min(resets) >= whens[0]
    assert {cut.which for cut in made} == {"all", "random"}
    assert all(cut.closed == 1 for cut in made if cut.which == "random")
    assert all(later - earlier >= 0.05 for earlier, later in zip(whens, whens[1:]))


def test_random_cuts_of_one_kind(echo: Server) -> None:
    with Shaper(echo.address) as link, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(link.address, TIMEOUT))
        link.wait_figures(lambda found: found.open == 3, "three connections")
        with RandomCuts(link, times=1, seconds=(0.0, 0.01), kinds=("all",)) as cuts:
            made = cuts.wait(TIMEOUT)
    assert [(cut.which, cut.closed) for cut in made] == [("all", 3)]


def test_random_cuts_end_with_their_context(sink: Server) -> None:
    with Shaper(sink.address) as link:
        with RandomCuts(link, times=1, seconds=(0.0, 0.01)) as cuts:
            with pytest.raises(TooLate, match="1 cuts: 0 within 0.1 seconds"):
                cuts.wait(0.1)              # there is nothing to cut
        assert cuts.cuts == []


def test_random_cuts_tell_of_a_link_that_is_gone(sink: Server) -> None:
    with Shaper(sink.address) as link, RandomCuts(link, seconds=(0.0, 0.01)) as cuts:
        link.close()
        with pytest.raises(ShaperError, match="cut"):
            cuts.wait(TIMEOUT)


# Its process


def test_what_makes_no_sense_is_refused(sink: Server, tmp_path: Path) -> None:
    with pytest.raises(ShaperError, match="rate of 1 bit/s"):
        Shaper(sink.address, rate=1)
    (tmp_path / "taken").touch()
    with pytest.raises(ShaperError, match="in use"):
        Shaper(sink.address, listen=tmp_path / "taken")
    with Shaper(sink.address, rate=10 * MBIT) as link:
        with pytest.raises(ShaperError, match="connection 0 is not there: 0 are open"):
            link.cut(0)
        with pytest.raises(ShaperError, match="all, random, a number"):
            link.cut("some")
        with pytest.raises(ShaperError, match="up, down, both"):
            link.silence(True, "left")
        with pytest.raises(ShaperError, match="cannot be damaged"):
            link.corrupt("up", -1)
        with pytest.raises(ShaperError, match="delay of 100 s"):
            link.shape(delay=100)
        assert link.figures().open == 0     # and it goes on


def test_proxy_ends_with_the_process_that_started_it(sink: Server) -> None:
    program = ("import sys, time; sys.path.insert(0, sys.argv[1]); from shaper import Shaper\n"
               "link = Shaper(('127.0.0.1', int(sys.argv[2])))\n"
               "print(link.pid, flush=True); time.sleep(60)")
    assert isinstance(sink.address, tuple)
    with subprocess.Popen([sys.executable, "-c", program, str(PROGRAM.parent),
                           str(sink.address[1])], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        proxy = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended = select.select([proxy], [], [], TIMEOUT)[0]
    os.close(proxy)
    assert ended
