#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest made of Python, by which the other tests judge the relay."""

import socket
import struct

import guest as g


def test_what_follows_the_welcome_stays_in_the_socket() -> None:
    """A link is handed on to who reads frames, and the first may come with the welcome."""
    ours, theirs = socket.socketpair()
    welcome = struct.pack("!HHIQ16sI", 1, 0, 0, 7, bytes(16), 1500)
    frame = g.record(g.FRAME, bytes(60))
    with ours, theirs:
        theirs.sendall(g.record(g.WELCOME, welcome) + frame)
        link = g.handshake(ours, "acme/web", None)
        assert (link.epoch, link.mtu, link.buffer) == (7, 1500, b"")
        assert ours.recv(1000) == frame
