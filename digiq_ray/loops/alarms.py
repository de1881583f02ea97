"""Which alarms a stage's figures raise: the one place that knows stages and alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from digiq_ray.diagnostics.alarms import Alarm, critic_alarms, extraction_alarms, finetune_alarms

_ALARMS: dict[str, Callable[[Mapping[str, Any]], list[Alarm]]] = {
    "finetune": finetune_alarms,
    "train-critic": critic_alarms,
    "train-policy": lambda figures: extraction_alarms(figures.get("digi_q", {})),
}


def stage_alarms(stage: str, figures: Mapping[str, Any]) -> list[Alarm]:
    """The alarms that the figures of a finished stage raise; a stage that trains nothing has none."""
    return _ALARMS[stage](figures) if stage in _ALARMS else []
