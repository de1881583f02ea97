"""Training of VLMs: texts that follow one screen and prompt in one row, against a row for each text.

``python -m benchmarks.packing [--quick] --json FILE``. Each way makes updates (losses, gradients, AdamW) in turn,
with the trainers that the stages use. *stage_1* has two texts a state: the question whether the action changes the
screen, and the action. *actions* imitates eight actions of each state. *tiny* is the shape of the model that ships with
the package, for which an image is 36 tokens; *mid* is larger and has LLaVA-1.5's 576. Weights are random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks._vlm_models import SHAPES, WORDS, actions, parameters, random_vlm, requests
from benchmarks.report import Cell, Report, Spread, interleave, options, ratio
from digiq_ray.core.settings import TuningSettings
from digiq_ray.policy.imitation import ImitationSettings, ImitationTrainer, Item
from digiq_ray.vlm.finetune import ChangeExample, FinetuneSettings, FinetuneTrainer
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm

CANDIDATES = 8
"""Actions of a state in the work *actions*."""


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of update: on which model, on how many states, and how many updates are timed together."""

    kind: str
    model: str
    states: int
    updates: int = 1


def stage_1(vlm: Vlm, states: int, *, packing: bool) -> Callable[[], object]:
    """An update of stage 1 on so many states."""
    asked, texts = requests(states, 0), actions(states, 0)
    screens = [vlm.transform.prepare(one.screen) for one in asked]
    examples = [
        ChangeExample(screen, vlm.prefix_ids(screen, one.task, one.history), text, bool(number % 2))
        for number, (screen, one, text) in enumerate(zip(screens, asked, texts, strict=True))
    ]
    settings = FinetuneSettings(
        steps=1, batch=states, learning_rate=1e-6, weight_decay=0.01, rehearsal=0.5, clip=1.0, seed=0,
        tuning=TuningSettings(packing=packing),
    )  # fmt: skip
    trainer = FinetuneTrainer(vlm, examples, settings)
    return lambda: trainer.step(0)


def imitation(vlm: Vlm, states: int, *, packing: bool) -> Callable[[], object]:
    """An update of a policy on so many states, each with ``CANDIDATES`` actions."""
    items = []
    for number, one in enumerate(requests(states, 0)):
        screen = vlm.transform.prepare(one.screen)
        prefix = vlm.prefix_ids(screen, one.task, one.history)
        items += [Item(screen, prefix, text) for text in actions(CANDIDATES, number)]
    settings = ImitationSettings(
        steps=1, batch=len(items), learning_rate=1e-6, weight_decay=0.01, clip=1.0, seed=0,
        tuning=TuningSettings(packing=packing),
    )  # fmt: skip
    trainer = ImitationTrainer(vlm, items, settings)
    return lambda: trainer.step(0)


KINDS = {"stage_1": stage_1, "actions": imitation}


def measure(vlm: Vlm, work: Work, repeats: int, console: Console | None = None) -> dict[str, list[float]]:
    """States a second, *packed* and *apart*, of each repeat; the first updates are not counted."""

    def timed(update: Callable[[], object]) -> Callable[[], float]:
        def states_a_second() -> float:
            start = time.perf_counter()
            for _ in range(work.updates):
                update()
            return work.updates * work.states / (time.perf_counter() - start)

        return states_a_second

    make = KINDS[work.kind]
    ways = {name: timed(make(vlm, work.states, packing=name == "packed")) for name in ("packed", "apart")}
    interleave(ways, 1)
    return interleave(ways, repeats, console)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    given = options(__doc__, arguments)
    console, repeats = Console(stderr=True), 2 if given.quick else 7
    models = {"tiny": make_vlm(WORDS), "mid": random_vlm(SHAPES["mid"])}
    works = [
        Work("stage_1", "tiny", 32, 1 if given.quick else 10),
        Work("actions", "tiny", 16, 1 if given.quick else 10),
        Work("stage_1", "mid", 2 if given.quick else 8),
        Work("actions", "mid", 1 if given.quick else 2),
    ]
    rows: list[dict[str, Cell]] = []
    ratios: dict[str, Spread] = {}
    for work in works:
        found = measure(models[work.model], work, repeats, console)
        for way, speeds in found.items():
            rows.append({"work": work.kind, "model": work.model, "way": way, "states_per_second": Spread.of(speeds)})
        ratios[f"{work.kind}_{work.model}_speedup"] = ratio(found["packed"], found["apart"])
    notes = [
        f"{name}: {parameters(vlm) / 1e6:.1f} million parameters, float32, on the CPU" for name, vlm in models.items()
    ]
    notes.append(f"{repeats} repeats of {[f'{one.states} states of {one.kind}, {one.model}' for one in works]}")
    Report(name="packing", rows=rows, ratios=ratios, notes=notes).publish(given.json)


if __name__ == "__main__":
    main()
