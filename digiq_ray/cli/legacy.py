"""``digiq import`` and ``digiq export-legacy``: the original's files to stores and task sets, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from digiq_ray.cli.common import Report, config_options, json_line
from digiq_ray.core.errors import InputError
from digiq_ray.store.legacy.exporting import export_trajectories
from digiq_ray.store.legacy.importing import import_trajectories
from digiq_ray.store.legacy.report import COUNTS
from digiq_ray.store.legacy.settings import ImportSettings
from digiq_ray.store.legacy.tasks import EVALUATED, import_task_lists

_HELD = ("layout", "image_paths", "horizon", "state_dim", "action_dim", "dtype")
_ALWAYS = ("trajectories", "steps", "episodes")


@click.command("import", short_help="the original's trajectory files and task lists")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE.pt]")
@click.option("--images", type=click.Path(path_type=Path), help="Directory of the file's screenshots.")
@click.option("--tasks", "task_lists", multiple=True, type=click.Path(path_type=Path), help="A task list; repeatable.")
@click.option("--drop-overlap", is_flag=True, help="Leaves test tasks out whose goal is also a training task.")
@click.option("--out", metavar="DIR", help="Where the stores or task sets go: a directory or s3://BUCKET/PREFIX.")
@config_options(ImportSettings, {"--horizon": "horizon", "--gamma": "gamma", "--split": "split"})
def import_(
    config: ImportSettings,
    *,
    file: Path | None,
    images: Path | None,
    task_lists: tuple[Path, ...],
    drop_overlap: bool,
    out: str | None,
) -> Report:
    """Reads a trajectory file of Digi-Q or DigiRL into stores, or its task lists into task sets.

    Nothing in a file is executed: types that plain data does not have are refused. The same command again adds
    nothing, or continues where it was killed.
    """
    if (file is None) == (not task_lists):
        raise InputError("give either a trajectory file (FILE.pt) or task lists (--tasks FILE.txt)")
    if file is None:
        found = import_task_lists(task_lists, out, horizon=config.horizon, drop_overlap=drop_overlap)
        _show_tasks(found)
        return found
    if out is None:
        raise InputError("--out is missing: give the directory, or s3://BUCKET/PREFIX, that the stores go to")
    if drop_overlap:
        raise InputError("--drop-overlap is for task lists; leave it out with a trajectory file")
    with _progress("import", DownloadColumn()) as on_progress:
        report = import_trajectories(file, out, settings=config, images=images, on_progress=on_progress)
    _show_import(report)
    return report


@click.command("export-legacy", short_help="a store as a trajectory file that the original trains on")
@click.argument("store", metavar="STORE")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .pt file, which must not exist.")
@click.option("--gamma", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="Discount of the returns.")
@click.option("--images", type=click.Path(path_type=Path), help="Directory that the screens are written to.")
@click.option("--pad/--no-pad", default=True, help="Gives every step equally many candidates (default), as it needs.")
@click.option("--json", "as_json", is_flag=True, help="Makes the last line of stdout one JSON object.")
def export_legacy(store: str, *, out: Path, gamma: float, images: Path | None, pad: bool, as_json: bool) -> None:
    """Writes the stores under STORE (episodes, candidates, features) as one file for the original's torch.load."""
    with _progress("export", MofNCompleteColumn()) as on_progress:
        report = export_trajectories(store, out, gamma=gamma, images=images, pad=pad, on_progress=on_progress)
    _console().print(
        f"{out}: {report['trajectories']:,} trajectories, {report['steps']:,} steps, {report['bytes'] / 1e6:,.1f} MB"
    )
    if as_json:
        click.echo(json_line(report))


@contextmanager
def _progress(what: str, count: Any) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn(what), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _show_import(report: Mapping[str, Any]) -> None:
    held = ", ".join(f"{name} {report[name]}" for name in _HELD if report[name] is not None)
    table = Table("count", "of", title=f"{report['file']}: {held}", title_justify="left")
    table.columns[0].justify = "right"
    for name, count in report["counts"].items():
        if count or name in _ALWAYS:
            table.add_row(f"{count:,}", COUNTS[name])
    console = _console()
    console.print(table)
    if not report["images"]:
        console.print("no screenshots: give their directory with --images")
    console.print(f"{report['episodes_added']:,} episodes added to {report['out']}; report: {report['report']}")


def _show_tasks(report: Mapping[str, Any]) -> None:
    console = _console()
    table = Table("task list", "rows", "different", "duplicates", "kept")
    for row in report["sets"]:
        kept = report["tasks"][row["name"]]
        table.add_row(*(str(row[key]) for key in ("name", "rows", "unique", "duplicates")), str(kept))
    console.print(table)
    for both in report["overlaps"]:
        table = Table("goals shared", "different", "rows", f"of the first {EVALUATED}")
        table.title = f"{both['test']} in {both['train']}"
        for name, label in (("exact", "as written"), ("normalised", "quotes, case, spaces alike")):
            table.add_row(label, *(str(both[name][key]) for key in ("unique", "rows", "evaluated_rows")))
        console.print(table)
    if "out" in report:
        console.print(f"task sets: {report['out']}")
