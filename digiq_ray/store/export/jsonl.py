"""Episodes as text: ``SPLIT.jsonl`` with one line for each observation, and the screens as files named by their hash.

A line has the columns of the store, but ``screen`` is the path of a file beside it; equal screens are one file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from digiq_ray.core.episodes import Episode
from digiq_ray.store.export.files import ExportCounts, OnEpisode, safe_name, write_screen
from digiq_ray.store.schema import episode_to_rows

SCREENS = "screens"


def export_jsonl(episodes: Iterable[Episode], root: Path, *, on_episode: OnEpisode) -> ExportCounts:
    """Writes ``SPLIT.jsonl`` and ``screens/`` into the empty directory ``root``."""
    counts = ExportCounts()
    splits: dict[str, TextIO] = {}
    with ExitStack() as stack:
        for episode in episodes:
            name = safe_name(episode.task.split)
            if name not in splits:
                splits[name] = stack.enter_context(open(root / f"{name}.jsonl", "x", encoding="utf-8"))
            for row in episode_to_rows(episode):
                splits[name].write(_line(row, root))
                counts.rows[name] = counts.rows.get(name, 0) + 1
                counts.lost_screens += row["screen_hash"] is None
            counts.episodes += 1
            on_episode(counts.episodes)
    return counts


def _line(row: dict[str, Any], root: Path) -> str:
    digest = row["screen_hash"]
    row["screen"] = None if digest is None else write_screen(root, SCREENS, row["screen"], digest)
    return json.dumps(row, ensure_ascii=False) + "\n"
