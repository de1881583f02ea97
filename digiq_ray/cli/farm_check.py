"""``digiq farm check`` and ``digiq farm golden``: does a device work here, and preparing the emulators of an AVD."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.markup import escape

from digiq_ray.cli.common import json_line
from digiq_ray.core.errors import InputError
from emulator_workers.backends import Backend, Kind, end_servers

_JSON = click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")


@click.command(short_help="does a device do what every device must? a table of steps")
@click.option(
    "--device", "kind", type=click.Choice(get_args(Kind)), default="simulated", show_default=True, help="What it is."
)
@click.option("--udid", help="Android: the id of a phone or running emulator, as adb devices lists it.")
@click.option("--avd", help="Android: an AVD, whose emulator is started and ended.")
@click.option("--adb-port", type=int, default=5037, show_default=True, help="Android: the adb server's port.")
@click.option("--prepared", is_flag=True, help="Android: Appium's server is on the phone already.")
@click.option("--home-url", default="", help="Chromium: its first page; the simulated phone as a web page by default.")
@click.option("--appium-url", default="", help="An Appium server that runs already; by default one is started.")
@_JSON
@click.pass_context
def check(
    context: click.Context,
    kind: Kind,
    udid: str | None,
    avd: str | None,
    adb_port: int,
    prepared: bool,
    home_url: str,
    appium_url: str,
    as_json: bool,
) -> None:
    """Starts one device, goes through the steps that every device must pass, and ends it. Exit code 1: one failed.

    Android without --udid and --avd is the first phone or emulator that adb knows to be up.
    """
    from emulator_workers.checks.conformance import conformance

    if kind == "android" and not avd:
        udid = _phone(udid, adb_port)
    backend = Backend(
        kind=kind,
        udids=(udid,) if udid else (),
        avd=avd or "",
        adb_port=adb_port,
        prepared=prepared,
        home_url=home_url,
        appium_url=appium_url,
    )
    console, made = Console(highlight=False), backend.make()
    results = []
    try:
        for result in conformance(made.device):
            mark = "[green]ok[/]    " if result.passed else "[red]failed[/]"
            line = f"{result.name:<16}{result.seconds:8.2f} s   {escape(result.detail)}"
            console.print(f"{mark}  {line}", soft_wrap=True)
            results.append(result)
    finally:
        if made.end is not None:
            made.end()
        end_servers()
    failed = [result.name for result in results if not result.passed]
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(results)} steps passed"
    console.print(f"{kind}: {verdict}")
    if as_json:
        report = {
            "device": kind,
            "passed": not failed,
            "failed": failed,
            "steps": [dataclasses.asdict(result) for result in results],
        }
        click.echo(json_line(report))
    context.exit(1 if failed else 0)


def _phone(udid: str | None, adb_port: int) -> str:
    """``udid`` if the adb server knows it, whatever its state, or else the first phone that is up; starts no server."""
    from emulator_workers.checks.machine import adb_devices

    devices = adb_devices(adb_port) or {}
    known = [each for each, state in devices.items() if each == udid or (not udid and state == "device")]
    if not known:
        raise InputError(
            f"{udid or 'an Android device that is up'} is not known to the adb server on port {adb_port} "
            f"({', '.join(devices) or 'it knows none, or does not run'}): start the device and look with adb devices, "
            "or give --avd"
        )
    return known[0]


@click.command(short_help="prepares the snapshot that emulators of an AVD start from")
@click.argument("avd")
@_JSON
def golden(avd: str, as_json: bool) -> None:
    """Boots AVD once, switches animations and first-run dialogues off, installs Appium's server, saves the snapshot."""
    from emulator_workers.adb_server import AdbServer
    from emulator_workers.appium_server import AppiumServer
    from emulator_workers.emulator import EmulatorSettings
    from emulator_workers.golden import prepare_golden

    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="digiq-golden-") as place:
        log = Path(place) / "golden.log"
        with AdbServer(log=log) as adb_server, AppiumServer() as server:
            report = prepare_golden(
                EmulatorSettings(avd=avd),
                server,
                adb_server=adb_server,
                log=log,
                on_step=lambda step: console.print(f"{avd}: {step}"),
            )
    click.echo(f"{avd}: snapshot {report.snapshot!r} is ready ({report.width} x {report.height} pixels)")
    if as_json:
        click.echo(json_line(dataclasses.asdict(report)))
