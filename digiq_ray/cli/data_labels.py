"""The balance of stage 1's labels on a sample of steps: whether the pixels below the status bar changed.

Whole episodes are drawn at random (always the same ones), because a label needs two screens in a row. Screens are made
smaller as for training; a model that looks at yet smaller ones may see fewer changes.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from digiq_ray.core.settings import FinetuneSettings
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.learner.stage1 import screen_distance
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.images import decode

_LONGEST_SIDE = 576


def label_balance(path: str, steps: int) -> dict[str, Any]:
    """How many of about ``steps`` steps changed the screen: ``successes``, ``n``, ``success_rate``, ``ci95``.

    Raises:
        StoreError: a segment is broken.
        InputError: a screen is not an image.
    """
    store, chosen = EpisodeStore(path), FinetuneSettings()
    ids = sorted(store.episode_ids())
    random.Random(0).shuffle(ids)
    changed = compared = 0
    for episode_id in ids:
        if compared >= steps:
            break
        (episode,) = store.episodes([episode_id])
        pictures = [_picture(step.screen) if step.screen else None for step in episode.steps]
        for before, after in pairwise(pictures):
            if before is not None and after is not None:
                compared += 1
                changed += screen_distance(before, after, chosen.ignore_top) > chosen.threshold
    return {
        "successes": changed,
        "n": compared,
        "success_rate": changed / compared if compared else None,
        "ci95": wilson(changed, compared) if compared else None,
        "threshold": chosen.threshold,
        "ignore_top": chosen.ignore_top,
    }


def _picture(screen: bytes) -> torch.Tensor:
    image = decode(screen)
    image = image.reduce(max(1, -(-max(image.size) // _LONGEST_SIDE)))
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))
