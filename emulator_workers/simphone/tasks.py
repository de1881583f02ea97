"""Two task sets on the simulated phone, as in the paper: *general* (short) and *webshop* (long, three difficulties).

Train and test differ in their items (notes, hours with their wordings, products, apps) *and* in their wordings, so no
test goal occurs in training. The ``pretrain`` split, for the demonstrator of the tiny VLM on the textbook release only,
has all items in the training's wordings. A task also fixes the seed of its phone: shuffled shops and results,
advertisements, lag.
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
SPLITS = ("train", "test", "pretrain")
HORIZONS = {"general": 10, "webshop": 20}

TEST_APPS = ("weather", "music")
TEST_TOGGLES = (("wifi", "off"), ("location", "on"))
TEST_HOURS = ("6", "9")
TEST_NOTES = ("buy keys", "get milk", "call bread", "find anna")
TEST_ITEMS = ("red hat", "green mug", "blue book", "yellow ball", "purple mug")

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


def _pick(options: tuple[T, ...], held_out: tuple[T, ...], split: str, rng: random.Random) -> T:
    if split == "pretrain":
        return rng.choice(options)
    return rng.choice(held_out if split == "test" else tuple(o for o in options if o not in held_out))


def _goal_toggle(split: str, rng: random.Random) -> dict[str, str]:
    pairs = tuple((toggle, value) for toggle in TOGGLES for value in ("on", "off"))
    toggle, value = _pick(pairs, TEST_TOGGLES, split, rng)
    return {"toggle": toggle, "value": value}


_GOALS: dict[str, Callable[[str, random.Random], dict[str, str]]] = {
    "open": lambda split, rng: {"app": _pick(APPS[1:], TEST_APPS, split, rng)},
    "toggle": _goal_toggle,
    "alarm": lambda split, rng: {"hour": _pick(HOURS, TEST_HOURS, split, rng)},
    "note": lambda split, rng: {"note": _pick(NOTES, TEST_NOTES, split, rng)},
    "go": lambda split, rng: {"shop": rng.choice(SHOPS)},
    "search": lambda split, rng: {"shop": rng.choice(SHOPS), "item": _pick(ITEMS, TEST_ITEMS, split, rng)},
    "buy": lambda split, rng: {"shop": rng.choice(SHOPS), "item": _pick(ITEMS, TEST_ITEMS, split, rng)},
}


def make_task(name: str, split: str, index: int, seed: int) -> Task:
    """The task number ``index`` of a set: a pure function of its arguments."""
    rng = random.Random(seed_of("simphone", name, split, index, seed))
    kinds, shares = zip(*(PRETRAIN_KINDS if split == "pretrain" else KINDS)[name], strict=True)
    kind = rng.choices(kinds, shares)[0]
    goal = _GOALS[kind](split, rng)
    return Task(
        task_id=f"{name}/{split}/{seed}/{index:05d}",
        text=rng.choice(WORDINGS[kind]["test" if split == "test" else "train"]).format(**goal),
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
