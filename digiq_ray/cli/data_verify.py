"""``digiq data verify``: reads everything in a data set, names what is broken, and sets it aside if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq_ray.cli.data_common import data_set, finish, plural
from digiq_ray.core.errors import StoreError
from digiq_ray.store.kinds import StoreKind

if TYPE_CHECKING:
    from digiq_ray.store.repair import Repair
    from digiq_ray.store.verification import Verification

_MOST_NOTES = 10
_KINDS = [str(kind) for kind in StoreKind if kind is not StoreKind.EMPTY]


@click.command(short_help="reads everything and names what is broken; --repair sets it aside")
@data_set
@click.option(
    "--repair", "repairing", is_flag=True, help="Sets broken files aside (deletes none) and sweeps leftovers."
)
@click.option("--kind", type=click.Choice(_KINDS), help="What DATA_SET is, if none of its files can say.")
def verify(path: str, repairing: bool, kind: str | None, as_json: bool) -> None:
    """Reads everything in DATA_SET: hashes, checksums, every row and every screen. Exit code 2 if anything is broken.

    With --repair, broken files are moved to a subfolder that no reader looks at, and the exit code is 0.
    """
    from digiq_ray.cli.show import Show
    from digiq_ray.store.directory import open_directory
    from digiq_ray.store.repair import repair
    from digiq_ray.store.verification import verify as verify_all

    directory = open_directory(path)
    with Show() as show:
        found = verify_all(directory, kind=StoreKind(kind) if kind else None, on_progress=show.watch("verify"))
    _print(found, path)
    done = repair(directory, found) if repairing else None
    report = _report(found, path)
    if done is not None:
        report["repair"] = {
            "set_aside": {name: str(place) for name, place in done.set_aside.items()},
            "swept": done.swept,
            "lost_episodes": len(done.lost),
            "lost_rows": done.rows,
            "unknown": done.unknown,
        }
        _print_repair(done)
    finish(report, as_json)
    if found.broken and not repairing:
        names = [finding.file for finding in found.broken]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        problem = f"{names[0]}{more} {'is' if len(names) == 1 else 'are'} broken"
        raise StoreError(f"{path}: {problem}; restore from a copy, or --repair sets aside what is broken")


def _print(found: Verification, path: str) -> None:
    console = Console(highlight=False)
    if found.findings:
        table = Table("File", "", "What is wrong", box=None, pad_edge=False)
        shown = len(found.broken) + _MOST_NOTES
        for finding in found.findings[:shown]:
            style = "red" if finding in found.broken else "dim"
            table.add_row(Text(finding.file), Text(finding.severity, style), Text(finding.problem))
        console.print(table)
        if len(found.findings) > shown:
            console.print(f"and {plural(len(found.findings) - shown, 'more note')}; --json has all")
    holds = f"{plural(found.episodes, 'episode')}, " if found.episodes else ""
    verdict = f"{len(found.broken)} broken" if found.broken else "all whole"
    console.print(
        f"{path}: {found.kind}, {plural(found.files, 'file')}, {holds}{plural(found.rows, 'row')}: {verdict}",
        markup=False,
        soft_wrap=True,
    )


def _print_repair(done: Repair) -> None:
    for name, place in done.set_aside.items():
        click.echo(f"set aside {name}: it is now {place}")
    if done.swept:
        click.echo(f"deleted {plural(len(done.swept), 'leftover file')} of writers that died")
    if done.set_aside:
        unknown = f", and what {plural(len(done.unknown), 'file')} held that can no longer say" if done.unknown else ""
        click.echo(f"lost: {plural(len(done.lost), 'episode')}, {plural(done.rows, 'row')}{unknown}")


def _report(found: Verification, path: str) -> dict[str, object]:
    findings = [
        {
            "file": finding.file,
            "severity": finding.severity,
            "problem": finding.problem,
            "lost_episodes": None if finding.lost is None else len(finding.lost),
            "lost_rows": finding.rows,
        }
        for finding in found.findings
    ]
    return {
        "command": "data verify",
        "path": path,
        "kind": found.kind,
        "files": found.files,
        "episodes": found.episodes,
        "rows": found.rows,
        "broken": len(found.broken),
        "findings": findings,
    }
