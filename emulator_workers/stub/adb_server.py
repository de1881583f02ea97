"""The adb server of the stub: what adb clients ask of the host, and what they ask of a phone.

The real ``adb`` program and Appium's driver, which calls it, are its clients. Old shell streams only (no ``shell_v2``),
so commands have no exit code: the driver needs none. What is not known is refused and reported.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable, Mapping

from emulator_workers.stub.adb_wire import fail, okay, read_request, receive
from emulator_workers.stub.forwarding import Forwards
from emulator_workers.stub.phone import UIA2_PORT, StubPhone
from emulator_workers.stub.shell import answer, plain, starts_instrumentation
from emulator_workers.stub.uia2 import serve_uia2

VERSION = 41
"""Of the protocol between client and server; a client of another version would try to replace the server."""
FEATURES = "cmd"
TRANSPORT_ID = (1).to_bytes(8, "little")
BUSY = "cannot bind listener: Address already in use"
LOOK_SECONDS = 0.5


class AdbServices:
    """Answers requests about some phones. Thread-safe.

    Args:
        phones: Those that are plugged in, by serial; may change.
        forwards: Ports that are forwarded to them.
        unknown: Is told what is not known here.
    """

    def __init__(self, phones: Mapping[str, StubPhone], forwards: Forwards, unknown: Callable[[str], None]) -> None:
        self._phones, self._forwards, self._unknown = phones, forwards, unknown

    def serve(self, connection: socket.socket) -> None:
        """Serves one connection: a request about the host, or the choice of a phone and a request for it."""
        asked = read_request(connection)
        chosen = re.fullmatch(r"host:(tport|transport)[:-](?:serial:)?(.+)", asked or "")
        if asked is None or chosen is None:
            connection.sendall(self._host(connection, asked) if asked is not None else b"")
            return
        phone = self._choose(connection, "" if chosen[2] in ("any", "local", "usb") else chosen[2])
        if phone is None:
            return
        connection.sendall(okay() + (TRANSPORT_ID if chosen[1] == "tport" else b""))
        asked = read_request(connection)
        if asked is None:
            return
        if asked.startswith("host"):
            connection.sendall(self._host(connection, asked, phone.udid))
        else:
            self._device(connection, phone, asked)

    def _choose(self, connection: socket.socket, serial: str) -> StubPhone | None:
        """The phone that a client names, or the only one; refuses otherwise."""
        phones = dict(self._phones)
        phone = phones.get(serial) if serial else next(iter(phones.values()), None)
        if not serial and len(phones) > 1:
            connection.sendall(fail("more than one device/emulator"))
        elif phone is None:
            connection.sendall(fail(f"device '{serial}' not found" if serial else "no devices/emulators found"))
        elif not phone.online:
            connection.sendall(fail("device offline"))
        else:
            return phone
        return None

    def _host(self, connection: socket.socket, asked: str, chosen: str = "") -> bytes:
        """The answer to a request about the host, or about a phone but not to it.

        Args:
            connection: Where it came from, for requests that wait.
            asked: The request.
            chosen: The phone that the client chose before; empty if the request names it.
        """
        named = re.fullmatch(r"(?:host-serial:([^:]+)|host(?:-any|-local|-usb)?):(.*)", asked)
        serial, what = (named[1] or chosen, named[2]) if named is not None else (chosen, "")
        simple: dict[str, Callable[[], str | None]] = {
            "version": lambda: f"{VERSION:04x}",
            "devices": lambda: "".join(f"{udid}\t{_state(phone)}\n" for udid, phone in self._phones.items()),
            "devices-l": lambda: "".join(_line(udid, phone) for udid, phone in self._phones.items()),
            "host-features": lambda: FEATURES,
            "reconnect-offline": self._reconnect,
            "kill": lambda: None,
            "list-forward": lambda: "".join(f"{f.udid} tcp:{f.local} {f.remote}\n" for f in self._forwards.list()),
        }
        if what in simple:
            return okay(simple[what]())
        if what == "killforward-all":
            self._forwards.remove_all()
            return okay() + okay()
        if what.startswith("killforward:"):
            local = what.partition(":")[2]
            return okay() + okay() if self._forwards.remove(_tcp(local)) else fail(f"listener '{local}' not found")
        return self._about(connection, serial, what, asked)

    def _about(self, connection: socket.socket, serial: str, what: str, asked: str) -> bytes:
        """The answer to a request about one phone that does not go to the phone."""
        wait = re.fullmatch(r"wait-for-(?:any|local|usb)-(device|disconnect)", what)
        if wait is not None:
            return self._wait(connection, serial, wait[1])
        phones = dict(self._phones)
        phone = phones.get(serial) if serial else next(iter(phones.values()), None)
        if phone is None:
            return fail(f"device '{serial}' not found" if serial else "no devices/emulators found")
        if what.startswith("forward:"):
            return self._forward(phone, what)
        facts = {"get-state": _state(phone), "get-serialno": phone.udid, "get-devpath": "unknown", "features": FEATURES}
        if what in facts:
            return okay(facts[what])
        self._unknown(f"adb {asked}")
        return fail(f"unknown host service '{asked}'")

    def _forward(self, phone: StubPhone, what: str) -> bytes:
        match = re.fullmatch(r"forward:(norebind:)?(tcp:\d+);(\S+)", what)
        if match is None:
            return fail(f"cannot forward {what}: this server forwards tcp ports only")
        if not phone.online:
            return fail("device offline")
        local, remote = _tcp(match[2]), match[3]
        if match[1] and any(forward.local == local for forward in self._forwards.list()):
            return fail("cannot rebind existing socket")
        try:
            if remote == UIA2_PORT and not phone.takes_port():
                return fail(BUSY)
            port = self._forwards.add(phone.udid, local, remote, self._server(phone, remote))
        except OSError:
            return fail(BUSY)
        return okay() + (okay(str(port)) if local == 0 else okay())

    def _server(self, phone: StubPhone, remote: str) -> Callable[[socket.socket], None]:
        """What answers on a port of a phone; nothing does on most, and their connections are closed."""
        if remote == UIA2_PORT:
            return lambda connection: serve_uia2(phone, connection, self._unknown)
        return lambda connection: None

    def _wait(self, connection: socket.socket, serial: str, state: str) -> bytes:
        """Waits until a phone is there, or gone, or the client has had enough."""
        connection.sendall(okay())
        online = state == "device"
        while not select.select([connection], [], [], 0.0)[0]:
            phones = dict(self._phones)
            phone = phones.get(serial) if serial else next(iter(phones.values()), None)
            if phone is None and not online:
                return okay()
            if phone is None:
                select.select([connection], [], [], LOOK_SECONDS)
            elif phone.wait_online(online, LOOK_SECONDS):
                return okay()
        return b""

    def _reconnect(self) -> str:
        offline = [(udid, phone) for udid, phone in self._phones.items() if not phone.online]
        for _, phone in offline:
            phone.reconnect()
        return "".join(f"reconnecting {udid} [offline]\n" for udid, _ in offline)

    def _device(self, connection: socket.socket, phone: StubPhone, asked: str) -> None:
        """Answers a request that goes to a phone."""
        service, _, said = asked.partition(":")
        command = plain(said)
        if service not in ("shell", "exec", "reboot"):
            self._unknown(f"adb {asked}")
            connection.sendall(fail(f"unknown service '{asked}'"))
            return
        connection.sendall(okay())
        upload = re.search(r"\binstall\b.* -S (\d+)", command)
        if service == "reboot":
            phone.reboot()
        elif starts_instrumentation(command):
            self._instrument(connection, phone)
        elif re.fullmatch(r"screencap(?: -p)?", command):
            connection.sendall(phone.screenshot())
        elif re.search(r"\blogcat\b", command):
            self._log(connection)
        elif upload is not None:
            receive(connection, int(upload[1]))
            connection.sendall(b"Success\n")
        else:
            output = answer(phone, command)
            if output is None:
                self._unknown(f"shell {command}")
            connection.sendall((output or "").encode())

    def _log(self, connection: socket.socket) -> None:
        """The phone's log, in which nothing happens, until the client has had enough."""
        connection.sendall(b"--------- beginning of main\n")
        while connection.recv(1 << 12):
            continue

    def _instrument(self, connection: socket.socket, phone: StubPhone) -> None:
        run = phone.instrumentation.start()
        try:
            run.hold(connection)
        finally:
            phone.instrumentation.stop(run=run)


def _tcp(address: str) -> int:
    return int(address.removeprefix("tcp:")) if re.fullmatch(r"tcp:\d{1,5}", address) else -1


def _state(phone: StubPhone) -> str:
    return "device" if phone.online else "offline"


def _line(udid: str, phone: StubPhone) -> str:
    return f"{udid:<22} {_state(phone)} product:simphone model:simulated_phone device:simphone transport_id:1\n"
