"""``digiq data export``: episodes in formats that other programs read, into a new local directory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from digiq_ray.cli.data_common import data_set, finish, open_kind, plural, size
from digiq_ray.core.errors import InputError
from digiq_ray.store.kinds import StoreKind
from digiq_ray.vlm.prompts import TEMPLATES

if TYPE_CHECKING:
    from digiq_ray.store.export.files import ExportCounts
    from digiq_ray.store.export.llava import Stage1

FORMATS = ("parquet", "jsonl", "llava")
_LLAVA_ONLY = ("template", "threshold", "ignore_top")


@click.command(short_help="Parquet for Hugging Face datasets, JSONL, or LLaVA conversations")
@data_set
@click.option(
    "--format", "form", type=click.Choice(["parquet", "jsonl", "llava"]), required=True, help="What to write."
)
@click.option("--out", required=True, help="The directory to make; it must not exist.")
@click.option("--snapshot", help="Exports what this snapshot of the data set pins.")
@click.option("--template", type=click.Choice(list(TEMPLATES)), help="llava: the prompts (default: standard).")
@click.option(
    "--threshold", type=click.FloatRange(min=0), help="llava: pixel difference that is a change (default: stage 1's)."
)
@click.option(
    "--ignore-top",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="llava: share of the height, from the top, that is not compared (default: stage 1's).",
)
def export(path: str, form: str, out: str, snapshot: str | None, as_json: bool, **llava: Any) -> None:
    """Writes the episodes in DATA_SET for other programs, into the new directory --out.

    parquet: for datasets.load_dataset, a row for each observation. jsonl: the same as text, screens as files.
    llava: a conversation for each step, asking as stage 1 does whether the action changes the screen.
    """
    from digiq_ray.cli.show import Show
    from digiq_ray.store.episodes import EpisodeStore
    from digiq_ray.store.export.files import new_directory

    given = [name for name in _LLAVA_ONLY if llava[name] is not None]
    if given and form != "llava":
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for --format llava only")
    if "://" in out:
        raise InputError(f"--out {out}: an export is written to a local directory; copy it from there")
    open_kind(path, StoreKind.EPISODES)
    store = EpisodeStore(path, snapshot=snapshot)
    total = len(store)
    if not total:
        raise InputError(f"{path}: holds no episodes to export")
    with Show() as show, new_directory(Path(out)) as root:
        watch = show.watch("export")
        counts = _writer(form, llava)(store.episodes(), root, on_episode=lambda done: watch(done, total))
        written = [file.stat().st_size for file in root.rglob("*") if file.is_file()]
    report = {
        "command": "data export",
        "path": path,
        "format": form,
        "out": out,
        "episodes": counts.episodes,
        "rows": counts.rows,
        "lost_screens": counts.lost_screens,
        "answers": getattr(counts, "answers", None),
        "files": len(written),
        "bytes": sum(written),
    }
    _print(report)
    finish(report, as_json)


def _writer(form: str, llava: dict[str, Any]) -> Callable[..., ExportCounts]:
    if form == "parquet":
        from digiq_ray.store.export.parquet import export_parquet

        return export_parquet
    if form == "jsonl":
        from digiq_ray.store.export.jsonl import export_jsonl

        return export_jsonl
    from digiq_ray.store.export.llava import export_llava

    return partial(export_llava, stage1=_stage1(**llava))


def _stage1(template: str | None, threshold: float | None, ignore_top: float | None) -> Stage1:
    """What our own stage 1 asks and labels, of a model that takes whole screenshots as LLaVA does."""
    import torch

    from digiq_ray.core.settings import FinetuneSettings
    from digiq_ray.learner.stage1 import picture, screen_distance
    from digiq_ray.store.export.llava import Stage1
    from digiq_ray.vlm.images import Fit

    chosen, prompts = FinetuneSettings(), TEMPLATES[template or "standard"]
    limit = chosen.threshold if threshold is None else threshold
    top = chosen.ignore_top if ignore_top is None else ignore_top
    unprepared = {"pixel_values": torch.empty(0)}  # the whole screen is compared, not what a model would be given

    def changed(screens: list[bytes | None]) -> list[bool | None]:
        pictures = [None if screen is None else picture(screen, unprepared, Fit.LETTERBOX) for screen in screens]
        return [
            None if before is None or after is None else screen_distance(before, after, top) > limit
            for before, after in pairwise(pictures)
        ]

    def question(task: str, history: tuple[str, ...], action: str) -> str:
        return prompts.prefix_text(task, history) + prompts.change_text(action)

    return Stage1(question, changed, prompts.no, prompts.yes)


def _print(report: dict[str, Any]) -> None:
    rows = ", ".join(f"{split} {count:,}" for split, count in report["rows"].items())
    unit = "conversations" if report["format"] == "llava" else "rows"
    click.echo(f"{report['out']}: {plural(report['episodes'], 'episode')}, {unit}: {rows}")
    if report["answers"]:
        click.echo("answers: " + ", ".join(f"{answer} {count:,}" for answer, count in report["answers"].items()))
    if report["lost_screens"]:
        click.echo(f"{plural(report['lost_screens'], 'screen')} lost before they came to the store")
    click.echo(f"{plural(report['files'], 'file')}, {size(report['bytes'])}")
