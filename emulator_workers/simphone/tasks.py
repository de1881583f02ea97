"""Two task sets on the simulated phone, as in the paper: *general* (short) and *webshop* (long, three difficulties).

Train and test differ in their items (notes, hours with their wordings, products, apps) *and* in their wordings, so no
test goal occurs in training. For choosing settings without a look at test tasks, the training tasks come apart in the
same way: ``validation`` has items and wordings that ``practice`` has not, and both are part of ``train``.
The ``pretrain`` split, for the demonstrator of the tiny VLM on the textbook release only, has all items in the
training's wordings. A task also fixes the seed of its phone: shuffled shops and results, advertisements, lag.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from digiq_ray.core.errors import InputError
from digiq_ray.core.rng import seed_of
from digiq_ray.core.tasks import Task, TaskSet
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.world import APPS, HOURS, ITEMS, NOTES, SHOPS, TOGGLES, Release

T = TypeVar("T")
SPLITS = ("train", "test", "practice", "validation", "pretrain")
HORIZONS = {"general": 10, "webshop": 20}

# Items that occur in test goals only, and those of the training goals that practice goals lack.
HELD_OUT: dict[str, dict[str, tuple[object, ...]]] = {
    "test": {
        "app": ("weather", "music"),
        "toggle": (("wifi", "off"), ("location", "on")),
        "hour": ("6", "9"),
        "note": ("buy keys", "get milk", "call bread", "find anna"),
        "item": ("red hat", "green mug", "blue book", "yellow ball", "purple mug"),
    },
    "validation": {
        "app": ("camera", "maps"),
        "toggle": (("bluetooth", "on"), ("airplane", "off")),
        "hour": ("8",),
        "note": ("get bread", "find keys", "call milk"),
        "item": ("red mug", "green ball", "yellow hat", "blue ball"),
    },
}

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "open": {
        "train": ("open {app}", "go to the {app} app", "start the {app} app"),
        "test": ("open the {app} app", "go to {app}"),
    },
    "toggle": {
        "train": ("turn {value} {toggle}", "go to settings and turn {value} {toggle}", "switch {value} the {toggle}"),
        "test": ("open settings and switch {value} {toggle}", "turn {value} the {toggle}"),
    },
    "alarm": {
        "train": ("set an alarm for {hour}", "go to the clock and set an alarm for {hour}", "add an alarm for {hour}"),
        "test": ("open the clock and add an alarm for {hour}", "set the alarm for {hour}"),
    },
    "note": {
        "train": ("write a note {note}", "open notes and add {note}", "add a note {note}"),
        "test": ("go to notes and write {note}", "write the note {note}"),
    },
    "go": {
        "train": ("go to {shop}", "open {shop}", "start the browser and go to {shop}"),
        "test": ("open the browser and go to {shop}", "go to the shop {shop}"),
    },
    "search": {
        "train": ("search for a {item} on {shop}", "go to {shop} and search for a {item}", "find a {item} on {shop}"),
        "test": ("search {shop} for a {item}", "open {shop} and find a {item}"),
    },
    "buy": {
        "train": ("buy a {item} on {shop}", "go to {shop} and buy a {item}", "add a {item} to the cart on {shop}"),
        "test": ("buy a {item} from {shop}", "open {shop} and add a {item} to the cart"),
    },
}
# Kinds of goals with their shares. In the updated release alarms, notes, searches and purchases need a control that
# works differently from the textbook release.
KINDS = {
    "general": (("open", 0.2), ("toggle", 0.2), ("alarm", 0.3), ("note", 0.3)),
    "webshop": (("go", 0.4), ("search", 0.35), ("buy", 0.25)),
}
# The demonstrator of the tiny VLM saw the three difficulties of the web shops equally often.
PRETRAIN_KINDS = KINDS | {"webshop": (("go", 1 / 3), ("search", 1 / 3), ("buy", 1 / 3))}
RELEARNED = frozenset({"alarm", "note", "search", "buy"})


def _pick(options: tuple[T, ...], what: str, split: str, rng: random.Random) -> T:
    kept: tuple[T, ...] = options
    if split in HELD_OUT:
        kept = tuple(option for option in options if option in HELD_OUT[split][what])
    elif split != "pretrain":
        away = ("test", "validation") if split == "practice" else ("test",)
        kept = tuple(option for option in options if not any(option in HELD_OUT[other][what] for other in away))
    return rng.choice(kept)


def _goal_toggle(split: str, rng: random.Random) -> dict[str, str]:
    pairs = tuple((toggle, value) for toggle in TOGGLES for value in ("on", "off"))
    toggle, value = _pick(pairs, "toggle", split, rng)
    return {"toggle": toggle, "value": value}


_GOALS: dict[str, Callable[[str, random.Random], dict[str, str]]] = {
    "open": lambda split, rng: {"app": _pick(APPS[1:], "app", split, rng)},
    "toggle": _goal_toggle,
    "alarm": lambda split, rng: {"hour": _pick(HOURS, "hour", split, rng)},
    "note": lambda split, rng: {"note": _pick(NOTES, "note", split, rng)},
    "go": lambda split, rng: {"shop": rng.choice(SHOPS)},
    "search": lambda split, rng: {"shop": rng.choice(SHOPS), "item": _pick(ITEMS, "item", split, rng)},
    "buy": lambda split, rng: {"shop": rng.choice(SHOPS), "item": _pick(ITEMS, "item", split, rng)},
}


def _wordings(kind: str, split: str) -> tuple[str, ...]:
    """Those of the split; of the training's, the last is kept for validation."""
    if split == "test":
        return WORDINGS[kind]["test"]
    training = WORDINGS[kind]["train"]
    return {"practice": training[:-1], "validation": training[-1:]}.get(split, training)


def make_task(name: str, split: str, index: int, seed: int) -> Task:
    """The task number ``index`` of a set: a pure function of its arguments."""
    rng = random.Random(seed_of("simphone", name, split, index, seed))
    kinds, shares = zip(*(PRETRAIN_KINDS if split == "pretrain" else KINDS)[name], strict=True)
    kind = rng.choices(kinds, shares)[0]
    goal = _GOALS[kind](split, rng)
    return Task(
        task_id=f"{name}/{split}/{seed}/{index:05d}",
        text=rng.choice(_wordings(kind, split)).format(**goal),
        horizon=HORIZONS[name],
        split=split,
        kind=kind,
        goal={"kind": kind, **goal},
        seed=rng.getrandbits(31),
    )


def build(name: str, split: str, count: int, seed: int = 0) -> TaskSet:
    """``count`` tasks of a split.

    Raises:
        InputError: there is no task set ``name`` or no ``split``.
    """
    if name not in KINDS:
        raise InputError(f"no task set {name!r} on the simulated phone; there are: {', '.join(sorted(KINDS))}")
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    return TaskSet(f"{name}/{split}", [make_task(name, split, index, seed) for index in range(count)])


def phone_for(task: Task, release: Release = Release.UPDATED) -> SimPhone:
    """The simulated phone that ``task`` starts on."""
    return SimPhone(task, release=release)
