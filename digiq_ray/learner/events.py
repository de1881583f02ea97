"""Figures that a stage has once, among the curves of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def log_figures(logs: Path, name: str, figures: Mapping[str, float]) -> None:
    """Writes each figure as a scalar ``NAME/FIGURE`` of one point, to the run ``name`` under ``logs``."""
    with SummaryWriter(str(logs / name)) as writer:
        for figure, value in figures.items():
            writer.add_scalar(f"{name}/{figure}", value, 0)
