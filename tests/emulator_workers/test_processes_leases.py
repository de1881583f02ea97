"""Leases of ports and devices: one holder at a time, over processes, given back by death."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys

import pytest

from digiq_ray.core.errors import InputError
from emulator_workers.processes.leases import (
    DIRECTORY_VARIABLE,
    LeaseRefusedError,
    PortKind,
    PortLeases,
    UdidLeases,
    lease_directory,
)

HOLDER = """
import sys
from pathlib import Path
from emulator_workers.processes.leases import PortKind, PortLeases, UdidLeases
directory = Path(sys.argv[1])
lease = UdidLeases(directory).lease("emulator-5554")
port = PortLeases(directory).lease(PortKind.SYSTEM)
print(port.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a device and a port."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.port = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate(timeout=30)


@pytest.mark.parametrize("kind", list(PortKind))
def test_two_leases_of_a_kind_are_two_ports_of_its_range(tmp_path, kind):
    leases = PortLeases(tmp_path)
    first, second = leases.lease(kind), leases.lease(kind)
    assert first.port != second.port
    assert all(kind.value[0] <= lease.port < kind.value[1] for lease in (first, second))


def test_ranges_of_kinds_do_not_overlap():
    ranges = sorted(kind.value for kind in PortKind)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(ranges))


def test_console_ports_are_even_and_keep_the_port_above_free_for_adb(tmp_path):
    leases = PortLeases(tmp_path)
    ports = [leases.lease(PortKind.CONSOLE).port for _ in range(3)]
    assert all(port % 2 == 0 for port in ports)
    assert len(set(ports)) == 3


def test_a_released_port_is_handed_out_again(tmp_path):
    leases = PortLeases(tmp_path)
    first = leases.lease(PortKind.SYSTEM)
    first.release()
    assert not first.held
    assert leases.lease(PortKind.SYSTEM).port == first.port


def test_releasing_twice_is_harmless(tmp_path):
    with PortLeases(tmp_path).lease(PortKind.SYSTEM) as lease:
        lease.release()
    lease.release()
    assert not lease.held


def test_a_port_that_something_listens_on_is_not_handed_out(tmp_path):
    leases = PortLeases(tmp_path)
    lease = leases.lease(PortKind.GRPC)
    with socket.create_server(("127.0.0.1", lease.port)):
        lease.release()
        assert leases.lease(PortKind.GRPC).port != lease.port


def test_a_range_that_is_used_up_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("emulator_workers.processes.leases._is_free", lambda port: False)
    with pytest.raises(LeaseRefusedError, match="no mjpeg port is free from 17810 to 18009"):
        PortLeases(tmp_path).lease(PortKind.MJPEG)


def test_a_port_that_another_process_holds_is_not_handed_out(tmp_path, holder):
    assert PortLeases(tmp_path).lease(PortKind.SYSTEM).port != holder.port


def test_a_device_has_one_owner_in_a_process(tmp_path):
    leases = UdidLeases(tmp_path)
    first = leases.lease("emulator-5554")
    with pytest.raises(LeaseRefusedError, match=f"emulator-5554 is in use by process {os.getpid()}"):
        leases.lease("emulator-5554")
    first.release()
    assert leases.lease("emulator-5554").held


def test_a_device_has_one_owner_over_processes_and_the_refusal_names_it(tmp_path, holder):
    with pytest.raises(LeaseRefusedError, match=f"in use by process {holder.pid}"):
        UdidLeases(tmp_path).lease("emulator-5554")


def test_a_device_whose_owner_was_killed_is_free(tmp_path, holder):
    holder.kill()
    holder.wait(30)
    assert UdidLeases(tmp_path).lease("emulator-5554").held


def test_the_same_serial_on_another_adb_server_is_another_device(tmp_path):
    leases = UdidLeases(tmp_path)
    assert leases.lease("emulator-5554", 5037).held
    assert leases.lease("emulator-5554", 5038).held


def test_an_id_with_any_characters_can_be_leased(tmp_path):
    assert UdidLeases(tmp_path).lease("../192.168.0.1:5555/x").held
    assert {path.name for path in tmp_path.iterdir()} == {"devices"}


def test_leases_lie_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "leases"))
    assert lease_directory() == tmp_path / "leases"
    assert (tmp_path / "leases").stat().st_mode & 0o077 == 0


def test_a_directory_behind_a_link_is_refused(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "link"))
    with pytest.raises(InputError, match="is not a directory of this user"):
        lease_directory()
