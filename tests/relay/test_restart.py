#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay ends, by any means, and comes back: connections stay."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import time

import guest as g
import pytest
from relaylib import Relay, Server, alive, echo, wait_for

MAC = bytes.fromhex("525400000001")
WEB = {"secret": "11" * 32, "mac": "52:54:00:00:00:01", "host-loopback": "true"}


def come_back(relay: Relay, guest: g.Guest) -> None:
    """What a client does: the same epoch, with its token."""
    old = guest.link
    old.close()
    guest.link = relay.attach("acme/web", epoch=old.epoch, token=old.token)


def test_kill_9_keeps_every_connection() -> None:
    with Relay({"acme/web": WEB}) as relay, Server(echo) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        connections = [guest.connect("10.0.2.2", server.port) for _ in range(10)]
        worker = relay.workers()["acme.web"]
        gaps = []
        for turn in range(10):
            for connection in connections:
                # Under load: the answer is on its way when the relay dies.
                connection.send(f"turn {turn}".encode())
            begin = time.monotonic()
            relay.kill()
            relay.start()
            come_back(relay, guest)
            for connection in connections:
                assert connection.receive(6) == f"turn {turn}".encode()
            gaps.append(time.monotonic() - begin)
        assert relay.workers()["acme.web"] == worker
        port = relay.port("acme/web")
        assert port["nat-starts"] == 0 and port["nat-adoptions"] == 1
        assert not server.errors
        assert max(gaps) < 1
        print("gaps", " ".join(f"{gap:.3f}" for gap in gaps))


def test_bulk_survives_kill_9_byte_for_byte() -> None:
    """Data is under way at each kill; what was lost with a link is sent again at once."""
    data = os.urandom(4000000)

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)

    with Relay({"acme/web": WEB}) as relay, Server(serve) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        connection = guest.connect("10.0.2.2", server.port)
        got = b""
        begin = time.monotonic()
        while len(got) < len(data):
            got += connection.receive(min(500000, len(data) - len(got)), 20)
            relay.kill()
            relay.start()
            come_back(relay, guest)
        assert got == data
        print(f"8 kills in {time.monotonic() - begin:.3f}")


def test_stopping_tells_the_guest_and_leaves_the_worker() -> None:
    with Relay({"acme/web": WEB}) as relay, Server(echo) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        connection = guest.connect("10.0.2.2", server.port)
        worker = relay.workers()["acme.web"]
        assert relay.stop() == 0
        assert guest.link.wait_closed() == g.R_SHUTDOWN
        assert alive(worker)
        relay.start()
        come_back(relay, guest)
        connection.send(b"still")
        assert connection.receive(5) == b"still"


def test_stopping_ends_a_handshake() -> None:
    """Its proof comes while the last words to another guest are still on their way."""
    other = {"secret": "44" * 32, "address": "10.0.2.99", "nat": "none"}
    with Relay({"acme/web": {**WEB, "nat": "none"}, "acme/db": other}) as relay:
        web = relay.attach("acme/web")
        with g.connect(relay.unix) as sock:
            link = g.Link(sock)
            hello = g.hello("acme", "db")
            link.send(g.HELLO, hello)
            kind, nonce = link.receive()
            assert kind == g.CHALLENGE
            assert relay.process is not None
            relay.process.terminate()
            # Does not end its own side: the relay waits for that for a while.
            wait_for(lambda: web.receive(5)[0] == g.BYE)
            with contextlib.suppress(OSError):
                link.send(g.PROOF, hmac.digest(bytes.fromhex("44" * 32), g.LABEL + nonce + hello,
                                               "sha256"))
            with pytest.raises(g.LinkClosed):
                link.receive(5)
        assert relay.process.wait(10) == 0
        web.close()


def test_restart_in_place() -> None:
    with Relay({"acme/web": WEB}) as relay, Server(echo) as server:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        connection = guest.connect("10.0.2.2", server.port)
        assert relay.process is not None
        pid = relay.process.pid
        begin = time.monotonic()
        relay.result("restart")
        assert guest.link.wait_closed() == g.R_SHUTDOWN
        wait_for(lambda: relay.log().count("event=ready") == 2)
        come_back(relay, guest)
        connection.send(b"again")
        assert connection.receive(5) == b"again"
        print(f"gap {time.monotonic() - begin:.3f}")
        assert relay.process.poll() is None and relay.result("status")["pid"] == pid  # type: ignore


def test_two_relays_do_not_share_epochs() -> None:
    with Relay({"acme/web": WEB}) as relay:
        second = Relay({"acme/web": WEB}, **{"state-dir": f"{relay.dir}/state"})
        with pytest.raises(AssertionError, match="another relay uses the state directory"):
            second.start()
        second.end()


def test_a_worker_whose_identity_is_gone_ends() -> None:
    old = {"secret": "44" * 32, "address": "10.0.2.99"}
    with Relay({"acme/web": WEB, "acme/old": old}) as relay:
        for key, mac in (("acme/web", MAC), ("acme/old", bytes.fromhex("525400000009"))):
            guest = g.Guest(relay.attach(key), mac)
            guest.resolve(guest.gateway)
        workers = relay.workers()
        relay.kill()
        del relay.identities["acme/old"]
        relay.write_identities()
        relay.start()
        wait_for(lambda: not alive(workers["acme.old"]))
        assert alive(workers["acme.web"])
        # It may not remove its sockets; the next relay does.
        relay.kill()
        relay.start()
        left = {name for name in os.listdir(f"{relay.dir}/nat") if not name.endswith(".lock")}
        assert left == {"acme.web.ctl", "acme.web.data"}
        assert alive(workers["acme.web"])


def test_reload_removes_adds_and_refuses_a_bad_file() -> None:
    with Relay({"acme/web": dict(WEB)}) as relay:
        link = relay.attach("acme/web")
        relay.identities["acme/new"] = {"secret": "55" * 32, "address": "10.0.2.77"}
        relay.write_identities()
        relay.result("reload")
        new = relay.attach("acme/new")
        assert link.sync() == []
        relay.identities["acme/bad"] = {"secret": "55"}
        relay.write_identities()
        answer = relay.ask("reload")
        assert not answer["ok"] and "[acme/bad] secret" in str(answer["error"])
        assert link.sync() == [] and new.sync() == []
        del relay.identities["acme/bad"], relay.identities["acme/new"]
        relay.write_identities()
        relay.result("reload")
        assert new.wait_closed() == g.R_REMOVED
        assert link.sync() == []
        os.chmod(f"{relay.dir}/ids", 0o644)
        answer = relay.ask("reload")
        assert not answer["ok"] and "chmod 600" in str(answer["error"])


def test_reload_swaps_macs() -> None:
    web, db = "52:54:00:00:00:01", "52:54:00:00:00:02"
    base = {"nat": "none", "secret": "66" * 32}
    identities = {"acme/web": {**base, "mac": web}, "acme/free": {**base, "address": "10.0.2.17"},
                  "acme/db": {**base, "mac": db, "address": "10.0.2.16"}}
    with Relay(identities) as relay:
        links = {key: relay.attach(key) for key in identities}
        for macs in ((db, web, ""), ("", web, db), (web, "", db), (web, db, "")):
            for key, mac in zip(("acme/web", "acme/db", "acme/free"), macs):
                identities[key].pop("mac", None)
                identities[key].update({"mac": mac} if mac else {})
            relay.write_identities()
            relay.result("reload")
            assert all(link.sync_test() == [] for link in links.values())
            # Each speaks under its new address and no other.
            for key, mac in zip(("acme/web", "acme/db", "acme/free"), macs):
                if mac:
                    raw = bytes.fromhex(mac.replace(":", ""))
                    links[key].send(g.FRAME, g.BROADCAST + raw + g.TEST_TYPE + bytes(46))
                    links[key].sync()
                    for other in links.keys() - {key}:
                        assert [f[6:12] for f in links[other].sync_test()] == [raw]


def test_a_reload_that_cannot_be_changes_nothing() -> None:
    base = {"nat": "none", "secret": "66" * 32}
    # So long that "a.b" fits as a worker's path and a long name does not.
    with Relay({"a/b": base, "a/c": {**base, "address": "10.0.2.16"}}) as relay:
        run = f"{relay.dir}/{'x' * (107 - len(relay.dir) - len('//nat/a.b.data') - 8)}"
        relay.stop()
        relay.settings.update({"run-dir": run, "control": f"{relay.dir}/control"})
        relay.start()
        link = relay.attach("a/c")
        del relay.identities["a/c"]
        relay.identities["a/" + "n" * 32] = {"secret": "66" * 32, "address": "10.0.2.30"}
        relay.write_identities()
        answer = relay.ask("reload")
        assert not answer["ok"] and "shorter directory" in str(answer["error"])
        assert [p["identity"] for p in relay.result("ports")] == ["a/b", "a/c"]  # type: ignore
        assert link.sync() == []


def test_a_worker_ends_after_its_linger_time() -> None:
    with Relay({"acme/web": WEB}, **{"nat-linger-seconds": "1"}) as relay:
        guest = g.Guest(relay.attach("acme/web"), MAC)
        guest.resolve(guest.gateway)
        worker = relay.workers()["acme.web"]
        time.sleep(1.5)
        assert alive(worker)
        guest.link.close()
        wait_for(lambda: not alive(worker), 5)
        guest.link = relay.attach("acme/web")
        guest.resolve(guest.gateway)
