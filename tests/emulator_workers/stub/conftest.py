"""Stubs for tests: one with a phone, and what talks to its server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stub_clients import AdbClient, Uia2Client

from emulator_workers.simphone.phone import CALM
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.phone import StubPhone


@pytest.fixture
def stub() -> Iterator[AndroidStub]:
    with AndroidStub(1, hazards=CALM) as running:
        yield running


@pytest.fixture
def phone(stub: AndroidStub) -> StubPhone:
    return stub.phones["emulator-5554"]


@pytest.fixture
def adb(stub: AndroidStub) -> AdbClient:
    return AdbClient(stub.adb_port)


@pytest.fixture
def uia2(adb: AdbClient, phone: StubPhone) -> Iterator[Uia2Client]:
    """A session with the server on the phone."""
    with adb.instrument(phone.udid):
        client = Uia2Client(adb.forward(phone.udid))
        client.open()
        yield client
        client.close()
