"""Stage 1 on the stores: labels from the pixels before and after each step, fine-tuning, accuracy on held-out episodes.

All prepared screens are kept in memory during training, as bytes (about 28 kB each for the tiny VLM).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from digiq_ray.core.errors import StoreError
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import Metric, RunSettings
from digiq_ray.diagnostics.labels import LabelledStep, label_quality
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.distributed import joined
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.models import trainable_vlm
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.learner.sharding import whole_vlm
from digiq_ray.learner.shared import by_first
from digiq_ray.learner.training import OnStep, train
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.finetune import ChangeExample, FinetuneSettings, FinetuneTrainer, accuracy, pixel_distance
from digiq_ray.vlm.images import Fit, decode
from digiq_ray.vlm.model import Vlm

_LONGEST_SIDE = 576
_LARGEST_DIFFERENCE = 255.0


def label(
    store: EpisodeStore, vlm: Vlm, settings: RunSettings, seen: list[LabelledStep] | None = None
) -> tuple[list[ChangeExample], list[ChangeExample], list[float]]:
    """Training and held-out examples, and all pixel distances. Whole episodes are held out, by a hash of their id.

    What there is to judge the labels by is added to ``seen``.
    """
    training: list[ChangeExample] = []
    held_out: list[ChangeExample] = []
    distances: list[float] = []
    chosen = settings.finetune
    for episode in store.episodes():
        screens = [vlm.transform.prepare(step.screen) for step in episode.steps]
        pictures = [
            picture(step.screen, screen, vlm.transform.fit) for step, screen in zip(episode.steps, screens, strict=True)
        ]
        history: tuple[str, ...] = ()
        aside = seed_of("held out", episode.episode_id) % 10_000 < chosen.held_out * 10_000
        for number, step in enumerate(episode.steps[:-1]):
            text = step.action_text or ""
            distance = screen_distance(
                pictures[number], pictures[number + 1], chosen.ignore_top, chosen.ignore_boxes, chosen.metric
            )
            prefix = vlm.prefix_ids(screens[number], episode.task.text, history)
            distances.append(distance)
            changed = distance > chosen.threshold
            (held_out if aside else training).append(ChangeExample(screens[number], prefix, text, changed))
            if seen is not None:
                seen.append(LabelledStep(step.screen, text, step.action, changed))
            history = (*history, text)
    return training, held_out, distances


def picture(screen: bytes, prepared: dict[str, torch.Tensor], fit: Fit) -> torch.Tensor:
    """What is compared of a screen: the whole of it and nothing else, ``[3, H, W]``, 0 to 255.

    Args:
        screen: The encoded image.
        prepared: The same as the model takes it, which saves the work if that is a small picture of the whole screen.
        fit: How it was prepared.
    """
    pixels = prepared["pixel_values"]
    if fit is Fit.STRETCH and pixels.dtype is torch.uint8:
        return pixels
    image: Image.Image = decode(screen)
    image = image.reduce(-(-max(image.size) // _LONGEST_SIDE))
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def screen_distance(
    before: torch.Tensor,
    after: torch.Tensor,
    ignore_top: float,
    boxes: Sequence[Sequence[float]] = (),
    metric: Metric = "mse",
) -> float:
    """``pixel_distance``; the largest possible where the sizes differ (the screen was turned)."""
    if before.shape != after.shape:
        return _LARGEST_DIFFERENCE**2 if metric == "mse" else _LARGEST_DIFFERENCE
    return pixel_distance(before, after, ignore_top, boxes, metric)


def finetune(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Fine-tunes the behaviour policy's VLM and publishes it as ``feature_vlm``.

    Returns:
        ``accuracy`` and ``majority`` (share of the commoner label) on held-out episodes, before and after, how
        trustworthy the ``labels`` are (see ``label_quality``), how many updates were made, and curves.

    Raises:
        StoreError: there is no step to learn from.
    """
    paths, chosen, spread = RunPaths(root), settings.finetune, joined()
    vlm = trainable_vlm(settings)
    seen: list[LabelledStep] = []
    stores = PinnedStores.open(paths, "finetune", ["episodes"])
    training, held_out, distances = label(stores.episodes, vlm, settings, seen)
    if not distances:
        raise StoreError(f"{paths.episodes} holds no step to learn from: collect episodes first")
    measured = held_out or training
    changed = sum(example.changed for example in measured) / len(measured)
    before = accuracy(vlm, measured)
    fingerprints = Fingerprints(
        data=stores.hashes,
        features={"model": vlm.weights_hash, "prompt": vlm.template_name, "image": str(vlm.transform.fit)},
        configuration={
            "seed": settings.seed,
            "finetune": chosen.model_dump(mode="json"),
            "tuning": settings.tuning.model_dump(mode="json", exclude={"checkpointing"}),
        },
    )
    trainer = FinetuneTrainer(
        vlm,
        training or held_out,
        FinetuneSettings(
            steps=chosen.steps,
            batch=chosen.batch,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            rehearsal=chosen.rehearsal,
            clip=1.0,
            seed=seed_of("stage 1", settings.seed),
            patience=chosen.patience,
            evaluate_every=chosen.evaluate_every,
            tuning=settings.tuning,
        ),
        measured,
        spread,
    )
    stores.keep()
    figures = train(
        trainer,
        name="finetune",
        checkpoints=paths.checkpoints("finetune", settings.learner.checkpoints),
        fingerprints=fingerprints,
        logs=paths.logs,
        every=settings.learner.checkpoint_every,
        deadline=settings.learner.checkpoint_seconds,
        on_step=on_step,
        stopped=lambda: trainer.stopped,
        spread=spread,
    )
    trainer.finish()
    vlm = whole_vlm(vlm, lambda: trainable_vlm(settings))
    after = accuracy(vlm, measured)
    final = paths.model("feature_vlm")
    by_first(spread, lambda: publish_directory(final, lambda hidden: vlm.save(hidden, version="feature_vlm")))
    return {
        "rows": len(training) + len(held_out),
        "accuracy": after,
        "accuracy_before": before,
        "majority": max(changed, 1.0 - changed),
        "changed_share": changed,
        "held_out": len(held_out),
        "median_distance": sorted(distances)[len(distances) // 2],
        "labels": label_quality(seen),
        "updates": int(figures["loss"][-1][0]) if figures.get("loss") else 0,
        "loss": figures.get("loss", []),
        "answer_loss": figures.get("answer_loss", []),
        "accuracy_curve": trainer.early_stop.curve() if trainer.early_stop else [],
    }
