"""Android behind Appium's UiAutomator2 driver: an emulator, a phone on a cable, or the stub.

How the phone is made and restored is an ``AndroidPhone``'s business; this is what is done with it. A phone belongs to
one device at a time, which a lease on its id makes sure of, because a second session would end the first in silence.
Touches are in pixels of the screenshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from emulator_workers.android_sdk import ADB_PORT, HOST, Adb, only_if_there
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.appium import AppiumDevice
from emulator_workers.devices.base import DeviceBroken, DeviceError, DeviceUnreachable, Frame, Key, Recovery, Reset
from emulator_workers.devices.phone import AndroidPhone
from emulator_workers.processes.leases import Lease, LeaseRefusedError, PortKind, PortLease, PortLeases, UdidLeases

KEYCODES = {Key.HOME: 3, Key.ENTER: 66}
# What a phone that was prepared once (a golden snapshot, the stub) can do without at each session.
PREPARED = {
    "appium:skipServerInstallation": True,
    "appium:skipDeviceInitialization": True,
    "appium:ignoreHiddenApiPolicyError": True,
}


class DeviceTaken(DeviceError):
    """Another process uses the device."""

    recovery = Recovery.REPLACE_DEVICE


class ConnectedPhone:
    """A phone, or an emulator that somebody else runs, which adb knows by its id.

    Args:
        udid: Its serial.
        adb_port: The adb server that knows it.
        up_seconds: How long it may take to come up, if it is away or offline.
        boot_seconds: How long a reboot may take.
    """

    def __init__(
        self, udid: str, *, adb_port: int = ADB_PORT, up_seconds: float = 20.0, boot_seconds: float = 300.0
    ) -> None:
        self.udid, self.adb_port = udid, adb_port
        self._up_seconds, self._boot_seconds = up_seconds, boot_seconds

    def ensure(self) -> None:
        """Waits for adb to see it, after one attempt to bring an offline one back.

        Raises:
            DeviceUnreachable: it stays away.
        """
        adb = Adb(self.udid, port=self.adb_port)
        state = adb.state()
        if state == "offline":
            with suppress(DeviceUnreachable):  # adb servers before 1.0.41 lack it; the state afterwards decides
                adb.run("reconnect", "offline")
        if state != "device":
            with suppress(DeviceUnreachable):
                adb.run("wait-for-device", seconds=self._up_seconds)
            state = adb.state()
        if state != "device":
            raise DeviceUnreachable(f"{self.udid} is not up after {self._up_seconds:g} s: adb says {state}")

    def restore(self) -> None:
        """It has no snapshot: the connection is made anew, no more."""
        self.ensure()

    def reboot(self) -> None:
        """Reboots it and waits until Android has booted."""
        adb = Adb(self.udid, port=self.adb_port)
        adb.run("reboot")
        adb.wait_until_booted(self._boot_seconds)


class AndroidDevice(AppiumDevice):
    """One Android phone.

    Args:
        phone: The phone.
        server: The Appium server; it runs on the host of the phone's adb server.
        name: Shown in episodes and logs; the phone's id by default.
        prepared: Whether Appium's server and settings are on the phone already (golden snapshot, stub).
        ports: Where the session's ports come from.
        devices: Where the lease on the phone comes from.
        capabilities: More capabilities, or others.
        limits: ``call_seconds``, ``start_seconds``, ``idle_seconds`` of ``AppiumDevice``.
    """

    kind = "android"

    def __init__(
        self,
        phone: AndroidPhone,
        server: AppiumEndpoint,
        *,
        name: str = "",
        prepared: bool = False,
        ports: PortLeases | None = None,
        devices: UdidLeases | None = None,
        capabilities: Mapping[str, object] | None = None,
        **limits: Any,
    ) -> None:
        super().__init__(name, server, **limits)
        self._phone, self._prepared = phone, prepared
        self._ports, self._devices = ports, devices
        self._more = dict(capabilities or {})
        self._leases: list[Lease] = []

    def type_text(self, text: str) -> None:
        """Types into the element that has the focus.

        Raises:
            ActionRejected: nothing that takes text has the focus.
        """
        self._call("typing", lambda driver: driver.switch_to.active_element.send_keys(text))

    def press(self, key: Key) -> None:
        """Presses a key."""
        if key is Key.BACK:
            self._call("back", lambda driver: driver.back())
        else:
            self._call(key.value, lambda driver: driver.press_keycode(KEYCODES[key]))

    # ---- AppiumDevice

    def _capabilities(self) -> dict[str, Any]:
        phone = self._phone
        phone.ensure()
        self.name = self.name or phone.udid
        try:
            self._leases.append((self._devices or UdidLeases()).lease(phone.udid, phone.adb_port))
            system, mjpeg = (self._port(kind).port for kind in (PortKind.SYSTEM, PortKind.MJPEG))
        except LeaseRefusedError as error:
            raise DeviceTaken(str(error)) from error
        calls_ms = int(1000 * self._call_seconds)
        return {
            "platformName": "Android",
            "appium:automationName": "UiAutomator2",
            "appium:udid": phone.udid,
            "appium:adbPort": phone.adb_port,
            "appium:suppressKillServer": True,
            **({"appium:remoteAdbHost": HOST} if only_if_there(phone.adb_port) else {}),
            "appium:systemPort": system,
            "appium:mjpegServerPort": mjpeg,
            "appium:noReset": True,
            "appium:skipUnlock": True,
            "appium:skipLogcatCapture": True,
            "appium:disableWindowAnimation": True,
            "appium:uiautomator2ServerLaunchTimeout": int(500 * self._start_seconds),
            "appium:uiautomator2ServerReadTimeout": calls_ms,
            "appium:adbExecTimeout": calls_ms,
            **(PREPARED if self._prepared else {}),
            **self._more,
        }

    def _prepare_session(self) -> None:
        self._call("settings", lambda driver: driver.update_settings({"waitForIdleTimeout": 0}))

    def _pointer_space(self, frame: Frame) -> tuple[int, int]:
        """The screenshot's pixels. The window may be smaller: system bars are not part of it."""
        window = self._call("window", lambda driver: driver.get_window_size())
        if window["width"] > frame.width or window["height"] > frame.height:
            raise DeviceBroken(
                f"{self.name}: a screenshot of {frame.width} x {frame.height} pixels "
                f"does not hold a window of {window['width']} x {window['height']}"
            )
        return frame.width, frame.height

    def _restore(self, level: Reset) -> None:
        if level is Reset.REBOOT:
            self._phone.reboot()
        else:
            self._phone.restore()

    def _give_back(self) -> None:
        while self._leases:
            self._leases.pop().release()

    def _port(self, kind: PortKind) -> PortLease:
        lease = (self._ports or PortLeases()).lease(kind)
        self._leases.append(lease)
        return lease
