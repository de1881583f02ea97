"""``digiq export-legacy``: stores as a trajectory file that the original code trains on.

Trajectories are written ascending by episode id, which for imported ones is their old order, with the keys of the
released Digi-Q files. The original's time limit records one step more, for an action that it never executes: such an
episode gets a last step from the candidates of its last state. What a state lacks is zeros, as in the original.
What bounds memory: one episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.directory import StorePath
from digiq_ray.store.legacy.emit import write_trajectories
from digiq_ray.store.legacy.images import ImageWriter
from digiq_ray.store.legacy.places import Places
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.legacy.source import Source
from digiq_ray.store.legacy.unwrap import image_paths, to_steps
from digiq_ray.store.publish import publish

OnProgress = Callable[[int, int], object]
"""Called with the episodes that were written, and how many there are."""


def export_trajectories(
    store: StorePath,
    path: Path,
    *,
    gamma: float = 0.95,
    images: Path | None = None,
    pad: bool = True,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the stores under ``store`` as one file.

    Args:
        store: Directory with ``episodes`` and, if there are any, ``candidates`` and ``features``.
        path: The ``.pt`` file, which must not exist.
        gamma: Discount of the returns in it.
        images: Directory that the screens are written to, by the paths in the file; they are left out without it.
        pad: Gives every step as many candidates as the one with most has, which the original needs, by repeating the
            executed action. Without it the file holds what the stores hold and no more.
        on_progress: Called after each episode.

    Returns:
        Counts of trajectories, steps, and what the file lacks.

    Raises:
        InputError: the file exists.
        StoreError: there are no episodes, or a store is broken.
        DiskFullError: no space is left; nothing of the file stays behind.
    """
    if path.exists():
        raise InputError(f"{path} exists; give another --out")
    source = Source.open(Places.under(store))
    width = source.most_candidates() if pad else 0
    pictures = None if images is None else ImageWriter(images)
    ids = sorted(source.episodes.episode_ids())
    if not ids:
        raise StoreError(f"{source.episodes.path}: holds no episodes; there is nothing to export")
    counts = Findings()

    def trajectories() -> Iterator[list[dict[str, object]]]:
        for number, episode in enumerate(source.episodes.episodes(ids), start=1):
            steps = to_steps(episode, source, gamma=gamma, width=width, counts=counts)
            if pictures is not None:
                for name, step in zip(image_paths(episode), episode.steps, strict=True):
                    pictures.write(name, step.screen)
            counts["trajectories"] += 1
            counts["steps"] += len(steps)
            yield steps
            on_progress(number, len(ids))

    try:
        publish(path, lambda file: write_trajectories(file, trajectories()))
    except FileExistsError as error:
        raise InputError(f"{path} exists; give another --out") from error
    return {"command": "export-legacy", "out": str(path), "bytes": path.stat().st_size, **counts}
