#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays systemd and logind on a private bus, as far as a launcher that wants a scope talks to them.

systemdplayer.py MODE LOG UID: the names it takes, what becomes of a start, and whether UID lingers
are the MODE's; each call is a line of JSON in LOG. It says "ready" once it has its names.
"""

import json
import sys
from typing import Any

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

MODE, LOG = sys.argv[1], sys.argv[2]
MANAGER = "/org/freedesktop/systemd1"
JOB = MANAGER + "/job/7"
XML = """<node>
<interface name="org.freedesktop.systemd1.Manager">
  <method name="Subscribe"/>
  <method name="StartTransientUnit">
    <arg type="s" direction="in"/><arg type="s" direction="in"/>
    <arg type="a(sv)" direction="in"/><arg type="a(sa(sv))" direction="in"/>
    <arg type="o" direction="out"/>
  </method>
  <signal name="JobRemoved">
    <arg type="u"/><arg type="o"/><arg type="s"/><arg type="s"/>
  </signal>
</interface>
<interface name="org.freedesktop.login1.Manager">
  <property name="KillUserProcesses" type="b" access="read"/>
</interface>
<interface name="org.freedesktop.login1.User">
  <property name="Linger" type="b" access="read"/>
</interface>
</node>"""


def end_job(bus: Gio.DBusConnection, unit: str, result: str) -> bool:
    bus.emit_signal(None, MANAGER, "org.freedesktop.systemd1.Manager", "JobRemoved",
                    GLib.Variant("(uoss)", (7, JOB, unit, result)))
    return False


def called(bus: Gio.DBusConnection, _sender: str, _path: str, _interface: str, method: str,
           arguments: GLib.Variant, call: Gio.DBusMethodInvocation) -> None:
    with open(LOG, "a") as log:
        log.write(json.dumps([method, arguments.unpack()]) + "\n")
    if method == "Subscribe":
        call.return_value(None)
        return
    unit = arguments.unpack()[0]
    if MODE == "refuse":
        call.return_dbus_error("org.freedesktop.systemd1.UnitExists", f"Unit {unit} exists.")
    elif MODE != "silent":
        end_job(bus, "another.service", "failed")
        call.return_value(GLib.Variant("(o)", (JOB,)))
        if MODE != "endless":
            GLib.timeout_add(20, end_job, bus, unit, "failed" if MODE == "failed" else "done")


def get(_bus: Gio.DBusConnection, _sender: str, _path: str, _interface: str,
        name: str) -> GLib.Variant:
    return GLib.Variant("b", name == "Linger" and MODE != "leaving" or
                        name == "KillUserProcesses" and MODE == "leaving")


def main() -> None:
    node = Gio.DBusNodeInfo.new_for_xml(XML)
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)
    uid = sys.argv[3]
    paths = [MANAGER, "/org/freedesktop/login1", f"/org/freedesktop/login1/user/_{uid}"]
    for path, interface in zip(paths, node.interfaces, strict=True):
        bus.register_object(path, interface, called, get, None)
    for name in ["login1"] + ["systemd1"] * (MODE != "absent"):
        answer: Any = bus.call_sync(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName",
            GLib.Variant("(su)", (f"org.freedesktop.{name}", 4)), None, 0, -1, None)
        assert answer.unpack() == (1,)
    print("ready", flush=True)
    GLib.MainLoop().run()


main()
