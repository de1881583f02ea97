"""``digiq data snapshot``: pins what a data set holds now, in the data set or in a file, and lists such pins."""

from __future__ import annotations

from pathlib import Path

import click

from digiq_ray.cli.data_common import data_set, finish, open_kind, plural
from digiq_ray.store.kinds import StoreKind, store_kind


@click.command(short_help="pins what a data set holds now")
@data_set
@click.option("--name", help="Keeps it in the data set under this name: its segments are then never deleted.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Writes it to this JSON file.")
@click.option("--list", "listing", is_flag=True, help="Lists the snapshots in the data set instead.")
def snapshot(path: str, name: str | None, out: Path | None, listing: bool, as_json: bool) -> None:
    """Pins exactly which segments the episodes or candidates in DATA_SET consist of, each with its hash."""
    from digiq_ray.store.candidates import CandidateStore
    from digiq_ray.store.episodes import EpisodeStore
    from digiq_ray.store.manifest import write_json

    directory = open_kind(path, StoreKind.EPISODES, StoreKind.CANDIDATES)
    opened = CandidateStore if store_kind(directory) is StoreKind.CANDIDATES else EpisodeStore
    if listing:
        if name or out:
            raise click.UsageError("--list takes neither --name nor --out")
        finish({"command": "data snapshot", "path": path, "snapshots": _listed(path)}, as_json)
        return
    store = opened(path)
    taken = store.snapshot() if name is None else store.save_snapshot(name)
    if out is not None:
        write_json(out, taken.to_json())
    episodes = len(opened(path, snapshot=taken))
    click.echo(f"{taken.snapshot_hash}: {plural(episodes, 'episode')} in {plural(len(taken.segments), 'segment')}")
    report = {
        "command": "data snapshot",
        "path": path,
        "snapshot_hash": taken.snapshot_hash,
        "name": name,
        "episodes": episodes,
        "segments": len(taken.segments),
    }
    finish(report, as_json)


def _listed(path: str) -> list[dict[str, object]]:
    from digiq_ray.store.directory import open_directory
    from digiq_ray.store.snapshot import load_snapshot, snapshot_names

    directory = open_directory(path)
    found: list[dict[str, object]] = []
    for name in snapshot_names(directory):
        one = load_snapshot(directory, name)
        found.append({"name": name, "snapshot_hash": one.snapshot_hash, "segments": len(one.segments)})
        click.echo(f"{one.snapshot_hash}  {plural(len(one.segments), 'segment'):>14}  {name}")
    if not found:
        click.echo("no snapshots; --name NAME takes one")
    return found
