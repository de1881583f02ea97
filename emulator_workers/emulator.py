"""An Android emulator of one's own: started headless from a golden snapshot, waited for, restored, ended for certain.

Many emulators share one AVD: each runs ``-read-only`` from the same snapshot and writes nothing back, so that a reset
is the load of a snapshot instead of a copy of gigabytes. Console, adb and gRPC ports are leased. Booting is awaited by
Android's own word for it, and notices at once when the emulator ends instead. Written after Google's documentation and
AndroidEnv; ``digiq farm check --device android`` shows whether it holds on a machine with KVM.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, InputError
from emulator_workers.adb_server import AdbServer
from emulator_workers.android_sdk import Adb, tool
from emulator_workers.devices.base import DeviceBroken, DeviceUnreachable
from emulator_workers.processes.leases import LeaseRefusedError, PortKind, PortLease, PortLeases
from emulator_workers.processes.owned import OwnedProcess, ProcessFailedError

log = logging.getLogger(__name__)

GOLDEN = "golden"
SLICE_SECONDS = 5.0
FLAGS = (
    "-no-window", "-no-audio", "-no-boot-anim", "-no-metrics", "-no-snapshot-save",
    "-camera-back", "none", "-camera-front", "none",
)  # fmt: skip
# What an emulator says when it cannot run, and what mends it.
REFUSALS: Sequence[tuple[str, type[DigiQError], str]] = (
    ("unknown avd name|avd .* not found", InputError, "make the AVD first (avdmanager create avd), or name another"),
    ("kvm|hardware acceleration", InputError, "it needs KVM: enable virtualisation and read access to /dev/kvm"),
    ("another emulator instance|multiple emulators", DeviceUnreachable, "the AVD is in use: end the other emulator"),
    ("not enough (disk )?space|no space left", InputError, "free some disk space"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """How an emulator runs.

    Attributes:
        avd: The AVD's name.
        snapshot: It starts from here and is restored to it; ``None`` boots it cold.
        read_only: Nothing is written back, and several emulators may share the AVD.
        memory_mb, cores: What the phone has.
        gpu: The emulator's ``-gpu`` mode; the default needs no graphics card.
        boot_seconds, restore_seconds, stop_seconds: Deadlines.
        flags: More words for the command line.
    """

    avd: str
    snapshot: str | None = GOLDEN
    read_only: bool = True
    memory_mb: int = 2048
    cores: int = 2
    gpu: str = "swiftshader_indirect"
    boot_seconds: float = 300.0
    restore_seconds: float = 60.0
    stop_seconds: float = 30.0
    flags: tuple[str, ...] = ()

    def command(self, program: str, *, console: int, grpc: int) -> list[str]:
        """The emulator's command line on these ports; adb's port is the one above the console's."""
        start = ("-snapshot", self.snapshot) if self.snapshot is not None else ("-no-snapshot-load",)
        size = ("-memory", str(self.memory_mb), "-cores", str(self.cores), "-gpu", self.gpu)
        ports = ("-ports", f"{console},{console + 1}", "-grpc", str(grpc))
        shared = ("-read-only",) if self.read_only else ()
        return [program, "-avd", self.avd, *FLAGS, *size, *ports, *start, *shared, *self.flags]


class AndroidEmulator:
    """One emulator. It is an ``AndroidPhone``. Not thread-safe.

    Args:
        settings: How it runs.
        adb_server: The adb server that it makes itself known to.
        log: What it writes is appended to this file.
        ports: Where its ports come from.
        program: The emulator; found in the SDK by default.
        adb_program: The adb client; found by default.
    """

    def __init__(
        self,
        settings: EmulatorSettings,
        *,
        adb_server: AdbServer,
        log: Path,
        ports: PortLeases | None = None,
        program: str | None = None,
        adb_program: str | None = None,
    ) -> None:
        self._settings, self._adb_server = settings, adb_server
        self._log, self._ports = log, ports
        self._program, self._adb_program = program, adb_program
        self._process: OwnedProcess | None = None
        self._leases: list[PortLease] = []
        self._adb: Adb | None = None

    @property
    def udid(self) -> str:
        """Its serial.

        Raises:
            DeviceUnreachable: it does not run.
        """
        return self._running().udid

    @property
    def adb_port(self) -> int:
        """The port of the adb server that knows it; raises ``DeviceUnreachable`` if it does not run."""
        return self._running().port

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Launches it and waits until Android has booted. Does nothing if it runs.

        Raises:
            InputError: the machine lacks something that the message names.
            DeviceUnreachable: it ended or did not boot in time.
            DeviceBroken: no port is free for it.
        """
        if self.alive:
            return
        self.stop()
        program = self._program or tool("emulator")
        try:
            adb_port = self._adb_server.ready()
            ports = self._ports or PortLeases()
            console, grpc = (self._lease(ports, kind) for kind in (PortKind.CONSOLE, PortKind.GRPC))
            self._adb = Adb(f"emulator-{console}", port=adb_port, program=self._adb_program)
            command = self._settings.command(program, console=console, grpc=grpc)
            env = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(adb_port)}
            self._process = OwnedProcess(command, name=f"emulator-{console}", log=self._log, env=env)
            self._process.start()
            self._process.wait_until(self._is_up, what="booting Android", seconds=self._settings.boot_seconds)
        except LeaseRefusedError as error:
            self.stop()
            raise DeviceBroken(str(error)) from error
        except (ProcessFailedError, DeadlineExceededError) as error:
            refusal = _refusal(self._process.output() if self._process is not None else "", str(error))
            self.stop()
            raise refusal from error
        except BaseException:
            self.stop()
            raise

    def ensure(self) -> None:
        """Starts it unless it runs and adb reaches it; a running one that adb has lost is started anew."""
        if self.alive and self._adb is not None and self._adb.state() != "device":
            log.warning("adb has lost %s: it is started anew", self._adb.udid)
            self.stop()
        self.start()

    def restore(self) -> None:
        """Loads its snapshot; without one, or if that fails, it is started anew."""
        snapshot = self._settings.snapshot
        if not self.alive or snapshot is None:
            self.reboot()
            return
        adb, seconds = self._running(), self._settings.restore_seconds
        try:
            adb.emulator("avd", "snapshot", "load", snapshot, seconds=seconds)
            adb.wait_until_booted(seconds)
        except DeviceUnreachable as error:
            log.warning("%s cannot be restored and is started anew: %s", adb.udid, error)
            self.reboot()

    def reboot(self) -> None:
        """Ends it and starts it anew."""
        self.stop()
        self.start()

    def save_snapshot(self, name: str, *, seconds: float = 120.0) -> None:
        """Saves its state in the AVD; it must not be read-only."""
        self._running().emulator("avd", "snapshot", "save", name, seconds=seconds)

    def shell(self, *words: str) -> str:
        """What a command on the phone prints."""
        return self._running().shell(*words)

    def healthy(self) -> bool:
        """Whether its process runs and adb reaches it; never raises."""
        return self.alive and self._adb is not None and self._adb.state() == "device"

    def stop(self) -> None:
        """Asks its console to end it, then SIGTERM, then SIGKILL, and gives its ports back. May be called twice.

        Raises:
            ProcessFailedError: it could not be ended.
        """
        process = self._process
        if process is not None:
            if process.alive and self._adb is not None:
                try:
                    self._adb.emulator("kill", seconds=SLICE_SECONDS)
                    process.ended_within(self._settings.stop_seconds)
                except DeviceUnreachable as error:
                    log.info("%s: its console does not end it: %s", self._adb.udid, error)
            process.stop(term_seconds=self._settings.stop_seconds)
        while self._leases:
            self._leases.pop().release()
        self._process = self._adb = None

    def _running(self) -> Adb:
        if self._adb is None:
            raise DeviceUnreachable(f"the emulator of AVD {self._settings.avd} does not run: start it first")
        return self._adb

    def _lease(self, ports: PortLeases, kind: PortKind) -> int:
        lease = ports.lease(kind)
        self._leases.append(lease)
        return lease.port

    def _is_up(self) -> bool:
        """Waits a slice of time for adb to see it; whether Android has booted then."""
        adb = self._running()
        try:
            adb.run("wait-for-device", seconds=SLICE_SECONDS)
        except DeviceUnreachable:
            return False
        return adb.booted()


def _refusal(output: str, error: str) -> DigiQError:
    """What the emulator's output means."""
    for pattern, kind, remedy in REFUSALS:
        line = next((line for line in output.splitlines() if re.search(pattern, line, re.IGNORECASE)), None)
        if line is not None:
            return kind(f"the emulator cannot run ({line.strip()[:200]}): {remedy}")
    return DeviceUnreachable(error)
