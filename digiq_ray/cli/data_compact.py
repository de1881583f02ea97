"""``digiq data compact``: merges the small segments of an episode data set, and deletes what was replaced if asked."""

from __future__ import annotations

import click

from digiq_ray.cli.data_common import data_set, finish, open_kind, plural, size
from digiq_ray.store.kinds import StoreKind


@click.command(short_help="merges small segments; --prune deletes those replaced")
@data_set
@click.option("--target-mb", default=128.0, show_default=True, help="About how large a merged segment becomes.")
@click.option("--prune", "pruning", is_flag=True, help="Deletes replaced segments that no snapshot pins.")
@click.option("--dry-run", is_flag=True, help="Says what would be merged, and writes nothing.")
def compact(path: str, target_mb: float, pruning: bool, dry_run: bool, as_json: bool) -> None:
    """Merges small segments of the episodes in DATA_SET into larger ones.

    Writers and readers may go on meanwhile. Replaced segments are ignored from then on, and lie there until --prune.
    """
    from digiq_ray.cli.show import Show
    from digiq_ray.store.compaction import compact as merge
    from digiq_ray.store.compaction import plan_merges
    from digiq_ray.store.episodes import EpisodeStore, episode_segments
    from digiq_ray.store.pruning import Pruned, prune

    if not target_mb > 0:
        raise click.BadParameter("must be more than 0", param_hint="--target-mb")
    directory = open_kind(path, StoreKind.EPISODES)
    store, target = EpisodeStore(path), round(target_mb * 1e6)
    before = episode_segments(directory).segments()
    report: dict[str, object] = {"command": "data compact", "path": path, "segments_before": len(before)}
    if dry_run:
        plans = plan_merges(before, target)
        for plan in plans:
            click.echo(f"would merge {plural(len(plan), 'segment')} of {size(sum(one.size for one in plan))} into one")
        if not plans:
            click.echo("nothing to merge")
        finish(report | {"dry_run": True, "merges": [[one.name for one in plan] for plan in plans]}, as_json)
        return
    with Show() as show:
        merges = merge(store, target_bytes=target, on_progress=show.watch("compact"))
    pruned = prune(store) if pruning else Pruned((), {}, {})
    after = episode_segments(directory)
    count, waiting = len(after.segments()), len(after.replaced())
    click.echo(f"{plural(len(before), 'segment')} became {count:,} ({plural(len(merges), 'merge')})")
    if pruned.removed:
        click.echo(f"deleted {plural(len(pruned.removed), 'replaced segment')}")
    for name, snapshots in pruned.pinned.items():
        click.echo(f"kept {name}: snapshot {', '.join(snapshots)} pins it")
    for name, reason in pruned.unsure.items():
        click.echo(f"kept {name}: {reason}")
    if waiting and not pruning:
        click.echo(f"{plural(waiting, 'replaced segment')} can be deleted with --prune")
    report |= {
        "segments_after": count,
        "merges": [{"name": one.name, "replaces": one.replaces} for one in merges],
        "removed": pruned.removed,
        "pinned": pruned.pinned,
        "unsure": pruned.unsure,
        "replaced_segments": waiting,
    }
    finish(report, as_json)
