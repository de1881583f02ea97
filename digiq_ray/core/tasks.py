"""Tasks and task sets: natural-language goals with a horizon and a split, checked for overlap between splits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from digiq_ray.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Task:
    """One goal.

    Attributes:
        task_id: Unique and stable, for instance ``general/test/00012``.
        text: The goal as the agent reads it.
        horizon: Largest number of actions.
        split: ``train`` or ``test``; ``practice`` and ``validation`` are two parts of ``train``.
        kind: A label for break-downs in reports (site, app, difficulty).
        goal: What a simulated device and the oracle judge need, for instance ``{"kind": "alarm", "hour": "7"}``.
        seed: Seed of the simulated device that the task starts on; ignored by real devices.
    """

    task_id: str
    text: str
    horizon: int
    split: str
    kind: str = ""
    goal: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TaskSet:
    """A named list of tasks. ``len``, iteration and indexing are those of the list."""

    name: str
    tasks: Sequence[Task]

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    @property
    def unique_texts(self) -> int:
        """How many different goals there are."""
        return len({task.text for task in self.tasks})


def normalise_text(text: str) -> str:
    """Lower case, one kind of quote, single spaces, no closing punctuation: what makes two goals the same goal."""
    text = re.sub(r"[\"'`\u2018\u2019\u201c\u201d]", "'", text.lower())
    return re.sub(r"\s+", " ", text).strip(" .?!")


def overlap(train: TaskSet, test: TaskSet) -> list[str]:
    """Normalised goals that occur in both sets, sorted."""
    return sorted({normalise_text(t.text) for t in train} & {normalise_text(t.text) for t in test})


def check_no_overlap(train: TaskSet, test: TaskSet) -> None:
    """Raises ``InputError`` if a goal of ``test`` occurs in ``train``, naming how many and the first."""
    both = overlap(train, test)
    if both:
        raise InputError(
            f"{len(both)} goals of {test.name} are also in {train.name} (first: {both[0]!r}); "
            "a result on them would measure memory: remove them from one split"
        )
