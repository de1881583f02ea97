"""``digiq data info``: what is in a data set, in numbers, as a table and as JSON.

Rates get their 95% intervals here, because the stores know no statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digiq_ray.cli.data_common import data_set, finish, plural, size
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.store.kinds import StoreKind, store_kind

if TYPE_CHECKING:
    from digiq_ray.store.info import EpisodeInfo

_MOST_TASKS = 20


@click.command(short_help="what is in a data set, in numbers")
@data_set
@click.option(
    "--labels", type=click.IntRange(min=1), help="Also labels about so many steps by pixels, as stage 1 does."
)
def info(path: str, labels: int | None, as_json: bool) -> None:
    """Shows counts, tasks, success rates, label balance and disk use of DATA_SET, which may be of any kind."""
    from digiq_ray.store.directory import open_directory

    directory = open_directory(path)
    kind = store_kind(directory)
    if labels is not None and kind is not StoreKind.EPISODES:
        raise click.UsageError(f"--labels is for episodes, not for {kind}")
    console = Console(highlight=False)
    report: dict[str, Any] = {"command": "data info", "path": path, "kind": kind}
    if kind is StoreKind.EPISODES:
        from digiq_ray.store.info import episode_info

        report |= _episodes(episode_info(directory))
        if labels is not None:
            from digiq_ray.cli.data_labels import label_balance

            report["labels"] = label_balance(path, labels)
        _print_episodes(report, console)
    elif kind is StoreKind.CANDIDATES:
        from digiq_ray.store.info_shards import candidate_info

        report |= dataclasses.asdict(candidate_info(directory))
        _print_plain(report, console)
    elif kind is StoreKind.FEATURES:
        from digiq_ray.store.info_shards import feature_info

        report |= dataclasses.asdict(feature_info(directory))
        _print_plain(report, console)
    else:
        click.echo(f"{path}: holds no segments and no shards")
    finish(report, as_json)


def _episodes(found: EpisodeInfo) -> dict[str, Any]:
    report = dataclasses.asdict(found)
    for key in ("success", "tasks"):
        report[key] = {
            name: {"episodes": one.episodes, **_rate(one.successes, one.n)} for name, one in getattr(found, key).items()
        }
    report["label_balance"] = _rate(found.changed, found.compared)
    return report


def _rate(successes: int, n: int) -> dict[str, Any]:
    rate = {"successes": successes, "n": n, "success_rate": None, "ci95": None}
    return rate | {"success_rate": successes / n, "ci95": wilson(successes, n)} if n else rate


def _print_episodes(report: Mapping[str, Any], console: Console) -> None:
    table = _table(report)
    versions = ", ".join(f"version {version}" for version in sorted(report["versions"]))
    waiting = report["replaced_segments"]
    table.add_row("episodes", f"{report['episodes']:,} ({plural(report['steps'], 'step')})")
    table.add_row("on disk", f"{size(report['bytes'])} in {plural(report['segments'], 'segment')} ({versions})")
    if waiting:
        table.add_row("", f"{plural(waiting, 'replaced segment')} that compact --prune can delete")
    lost = f", {report['lost_screens']:,} lost" if report["lost_screens"] else ""
    table.add_row("screens", f"{report['screens']:,}, {report['unique_screens']:,} different{lost}")
    for name in ("splits", "stop_reasons", "policy_versions", "devices", "action_types"):
        table.add_row(name.replace("_", " "), _counts(report[name]))
    table.add_row("parse errors", f"{report['parse_errors']:,}")
    if report["settle_tags"]:
        table.add_row("not settled", _counts(report["settle_tags"]))
    table.add_row("screen changed", f"{_percent(report['label_balance'])} of steps, by hash")
    if "labels" in report:
        table.add_row("", f"{_percent(report['labels'])} of {report['labels']['n']:,} steps, by pixels")
    if report["snapshots"]:
        table.add_row("snapshots", ", ".join(report["snapshots"]))
    console.print(table)
    rates = Table("Success", "Episodes", "Rate (95%)", box=None, pad_edge=False)
    tasks = sorted(report["tasks"].items(), key=lambda item: (-item[1]["episodes"], item[0]))
    for name, one in (*sorted(report["success"].items()), *tasks[:_MOST_TASKS]):
        rates.add_row(Text(name), f"{one['episodes']:,}", _percent(one))
    console.print()
    console.print(rates)
    if len(tasks) > _MOST_TASKS:
        console.print(f"and {plural(len(tasks) - _MOST_TASKS, 'more task')}; --json has all")


def _print_plain(report: Mapping[str, Any], console: Console) -> None:
    table = _table(report)
    for name, value in report.items():
        if name in ("command", "path", "kind"):
            continue
        text = size(value) if name == "bytes" else f"{value:,}" if isinstance(value, int) else value
        table.add_row(name.replace("_", " "), _counts(text) if isinstance(text, Mapping) else str(text))
    console.print(table)


def _table(report: Mapping[str, Any]) -> Table:
    table = Table("", "", box=None, show_header=False, pad_edge=False, title_justify="left")
    table.title = Text(f"{report['path']}: {report['kind']}", "bold")
    return table


def _counts(counts: Mapping[str, Any]) -> Text:
    ordered = sorted(counts.items(), key=lambda item: (-item[1] if isinstance(item[1], int) else 0, item[0]))
    return Text(
        ", ".join(f"{name} {count:,}" if isinstance(count, int) else f"{name} {count}" for name, count in ordered)
    )


def _percent(rate: Mapping[str, Any]) -> str:
    if rate["ci95"] is None:
        return "none judged"
    low, high = rate["ci95"]
    return f"{rate['success_rate']:.1%} ({low:.1%} to {high:.1%})"
