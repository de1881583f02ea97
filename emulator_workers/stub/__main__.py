"""A stub in a process of its own: ``python -m emulator_workers.stub --phones 2`` for trying adb and Appium by hand.

Prints one JSON line with the adb server's port, the phones and the control address (whose path is a secret), and ends
on SIGTERM, SIGINT, or when its standard input is closed, so that it does not outlive who started it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import click

from emulator_workers.simphone.world import Release
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.control import ControlServer


@click.command()
@click.option("--phones", default=1, show_default=True, type=click.IntRange(1, 64), help="How many phones.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the adb server; a free one by default.")
@click.option("--scale", default=1, show_default=True, type=click.IntRange(1, 20), help="Pixels per unit of 96 x 192.")
@click.option("--release", default=Release.UPDATED, type=click.Choice(Release, case_sensitive=False), help="Software.")
def main(phones: int, port: int | None, scale: int, release: Release) -> None:
    """Simulated Android phones behind an adb server, for Appium's UiAutomator2 driver."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with AndroidStub(phones, port=port, scale=scale, release=release) as stub, ControlServer(stub) as control:
        click.echo(json.dumps({"adb_port": stub.adb_port, "phones": list(stub.phones), "control": control.url}))
        threading.Thread(target=_until_closed, args=(ended,), name="stdin", daemon=True).start()
        ended.wait()


def _until_closed(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    main()
