"""``digiq farm list``, ``restart``, ``logs``, ``resize`` and ``drain``: commands to a farm that runs elsewhere.

They read what its supervisor writes in the run's directory, and leave requests there that it takes in its next round.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from digiq_ray.cli.common import json_line
from emulator_workers.farm_state import FarmDirectory, FarmState, Request, WorkerState

_WIDTH = 200
_JSON = click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")


def _out(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--out", type=click.Path(path_type=Path), required=True, help="The directory of the run whose farm it is."
    )(function)


def farm_of(out: Path) -> FarmDirectory:
    """The farm of the run in ``out``."""
    return FarmDirectory(out / "farm")


@click.command("list", short_help="the workers of a farm, and what went wrong with their devices")
@_out
@_JSON
def list_workers(out: Path, as_json: bool) -> None:
    """Lists the workers of the farm of a run, also of one that has ended."""
    state = farm_of(out).read()
    show_farm(state, wide_console())
    if as_json:
        click.echo(json_line({**dataclasses.asdict(state), "stale": state.is_stale(time.time())}))


def wide_console(*, stderr: bool = False) -> Console:
    """A console that does not cut the columns of a table where there is no terminal (a file, a pipe)."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=_WIDTH)


def show_farm(state: FarmState, console: Console) -> None:
    """The table of workers, and a line for the whole."""
    table = Table("worker", "state", "process", "jobs", "episodes", "steps", "busy", "device errors", "note")
    for worker in state.workers:
        table.add_row(*_row(worker), "" if worker.note == state.waiting else worker.note)
    console.print(table)
    heard = datetime.fromtimestamp(state.updated_at, UTC).isoformat(timespec="seconds")
    silent = f", [red]silent since {heard}[/]" if state.is_stale(time.time()) else ""
    losses = f", lost: {_counts(state.losses)}" if state.losses else ""
    errors = f", device errors: {_counts(state.device_errors)}" if state.device_errors else ""
    console.print(
        f"{state.state}{silent}: {state.done} of {state.total} episodes, {state.wanted} workers wanted, "
        f"busy {_share(state.utilisation)}{losses}{errors}",
        soft_wrap=True,
    )
    if state.waiting:
        console.print(f"[yellow]{state.waiting}[/]", soft_wrap=True)


def _row(worker: WorkerState) -> list[str]:
    counts = (worker.jobs, worker.episodes, worker.steps)
    process = str(worker.pid) if worker.pid is not None else "-"
    busy, errors = _share(worker.utilisation), _counts(worker.device_errors)
    return [worker.name, worker.state, process, *map(str, counts), busy, errors]


def _counts(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


@click.command(short_help="reboots the devices of one worker, or of all, between episodes")
@click.argument("worker", required=False)
@_out
@_JSON
def restart(worker: str | None, out: Path, as_json: bool) -> None:
    """Reboots the devices of WORKER (of all workers, if none is named) before their next episodes."""
    _ask(out, Request("restart", worker), f"{worker or 'all workers'} will reboot before the next episode", as_json)


@click.command(short_help="ends a farm, or a worker, when its live episodes have ended")
@click.argument("worker", required=False)
@_out
@_JSON
def drain(worker: str | None, out: Path, as_json: bool) -> None:
    """Begins no more episodes on WORKER, or on the whole farm, whose command then ends and can be given again."""
    _ask(out, Request("drain", worker), f"{worker or 'the farm'} ends when its live episodes have ended", as_json)


@click.command(short_help="lets a running farm grow or shrink")
@click.argument("workers", type=click.IntRange(min=1))
@_out
@_JSON
def resize(workers: int, out: Path, as_json: bool) -> None:
    """Sets how many WORKERS a running farm should have."""
    _ask(out, Request("resize", workers=workers), f"{workers} workers are wanted", as_json)


@click.command(short_help="the last lines that a worker has logged")
@click.argument("worker")
@_out
@click.option("--lines", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@_JSON
def logs(worker: str, out: Path, lines: int, as_json: bool) -> None:
    """Prints the last lines of the log of WORKER (worker-0, worker-1, ...)."""
    found = farm_of(out).log_lines(worker, lines)
    for line in found:
        click.echo(line)
    if as_json:
        click.echo(json_line({"worker": worker, "lines": found}))


def _ask(out: Path, request: Request, told: str, as_json: bool) -> None:
    farm_of(out).ask(request, time.time())
    click.echo(f"asked: {told}")
    if as_json:
        report: dict[str, Any] = dataclasses.asdict(request)
        click.echo(json_line({"asked": report}))
