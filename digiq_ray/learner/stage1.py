"""Stage 1 on the stores: labels from the pixels before and after each step, fine-tuning, accuracy on held-out episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.models import publish_directory, resolve
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.training import OnStep, train
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.finetune import (
    ChangeExample,
    FinetuneSettings,
    FinetuneTrainer,
    accuracy,
    pixel_distance,
)
from digiq_ray.vlm.model import Vlm


def label(
    store: EpisodeStore, vlm: Vlm, settings: RunSettings
) -> tuple[list[ChangeExample], list[ChangeExample], list[float]]:
    """Training and held-out examples, and all pixel distances. Whole episodes are held out, by a hash of their id."""
    training: list[ChangeExample] = []
    held_out: list[ChangeExample] = []
    distances: list[float] = []
    chosen = settings.finetune
    for episode in store.episodes():
        screens = [vlm.transform.prepare(step.screen) for step in episode.steps]
        history: tuple[str, ...] = ()
        aside = seed_of("held out", episode.episode_id) % 10_000 < chosen.held_out * 10_000
        for before, after, step in zip(screens, screens[1:], episode.steps, strict=False):
            text = step.action_text or ""
            distance = pixel_distance(picture(before), picture(after), chosen.ignore_top)
            prefix = vlm.prefix_ids(before, episode.task.text, history)
            distances.append(distance)
            (held_out if aside else training).append(
                ChangeExample(before, prefix, text, distance > chosen.threshold)
            )
            history = (*history, text)
    return training, held_out, distances


def picture(screen: dict[str, torch.Tensor]) -> torch.Tensor:
    """The pixels of a prepared screen as ``[3, H, W]``, 0 to 255."""
    pixels = screen["pixel_values"]
    return pixels if pixels.dim() == 3 else pixels.flatten()[None, :, None].float()


def finetune(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Fine-tunes the behaviour policy's VLM and publishes it as ``feature_vlm``.

    Returns:
        ``accuracy`` and ``majority`` (share of the commoner label) on held-out episodes, before and after, and curves.
    """
    paths, chosen = RunPaths(root), settings.finetune
    vlm = Vlm.load(resolve(settings.vlm.model))
    training, held_out, distances = label(EpisodeStore(paths.episodes), vlm, settings)
    measured = held_out or training
    changed = sum(example.changed for example in measured) / len(measured)
    before = accuracy(vlm, measured)
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
        ),
    )
    figures = train(
        trainer,
        name="finetune",
        checkpoints=paths.checkpoints("finetune"),
        logs=paths.logs,
        every=settings.learner.checkpoint_every,
        on_step=on_step,
    )
    vlm.model.eval()
    after = accuracy(vlm, measured)
    publish_directory(paths.model("feature_vlm"), lambda hidden: vlm.save(hidden, version="feature_vlm"))
    return {
        "rows": len(training) + len(held_out),
        "accuracy": after,
        "accuracy_before": before,
        "majority": max(changed, 1.0 - changed),
        "changed_share": changed,
        "held_out": len(held_out),
        "median_distance": sorted(distances)[len(distances) // 2],
        "loss": figures.get("loss", []),
    }
