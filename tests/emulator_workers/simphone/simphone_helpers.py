"""Phones in known states, and touches by name."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from digiq_ray.core.actions import Action, ActionType, press, swipe, tap, type_text
from digiq_ray.core.tasks import Task
from emulator_workers.simphone.lessons import random_phone
from emulator_workers.simphone.oracle import touch
from emulator_workers.simphone.phone import CALM, Element, Hazards, SimPhone
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import Release

SCREENS = ("home", "browser", "shop", "results", "product", "cart", "settings", "clock", "new_alarm", "notes", "mail")


def a_task(seed: int = 0, **goal: str) -> Task:
    return Task(f"a/{seed}", "a goal", 10, "train", goal={"kind": "none", **goal}, seed=seed)


def calm_phone(
    seed: int = 0,
    *,
    release: Release = Release.UPDATED,
    style: Style | None = None,
    hazards: Hazards = CALM,
    **goal: str,
) -> SimPhone:
    return SimPhone(a_task(seed, **goal), release=release, style=style, hazards=hazards)


def on_screen(
    screen: str, seed: int = 0, *, release: Release = Release.UPDATED, style: Style | None = None
) -> SimPhone:
    """A calm phone that shows ``screen``, with all that the screen needs."""
    phone = calm_phone(seed, release=release, style=style)
    state = phone.state
    state.shop = "ebuy"
    if screen in ("results", "product", "cart"):
        state.typed = "red mug"
        phone._search()
        state.product, state.came_from = "red mug", "results"
    state.screen = screen
    return phone


def random_phones(count: int, seed: int = 0) -> list[SimPhone]:
    rng = random.Random(seed)
    return [random_phone(rng) for _ in range(count)]


def element(phone: SimPhone, tag: str, name: str = "") -> Element:
    found = [e for e in phone.elements() if e.tag == tag and (not name or e.name == name)]
    assert found, f"no {tag} {name} on {phone.state.screen}"
    return found[0]


def poke(phone: SimPhone, tag: str, name: str = "") -> None:
    phone.tap(*element(phone, tag, name).centre)


def hit(phone: SimPhone, action: Action) -> Element | None:
    """The element that a tap reaches."""
    assert action.x is not None
    assert action.y is not None
    return next((e for e in phone.elements() if e.holds(action.x, action.y)), None)


def any_action(phone: SimPhone, rng: random.Random) -> Action:
    """A random action, mostly on something that can be touched."""
    elements = phone.elements()
    if elements and rng.random() < 0.6:
        return touch(rng.choice(elements))
    return rng.choice(
        (
            tap(rng.random(), rng.random()),
            swipe(0.5, 0.8, 0.5, 0.2),
            type_text("red mug"),
            *(press(kind) for kind in (ActionType.BACK, ActionType.HOME, ActionType.ENTER, ActionType.WAIT)),
        )
    )


unit = st.floats(0, 1, allow_nan=False)
texts = st.sampled_from(("red mug", "buy milk", "7", "nonsense words"))
kinds = (ActionType.BACK, ActionType.HOME, ActionType.ENTER, ActionType.WAIT)
actions = st.one_of(
    st.builds(tap, unit, unit),
    st.builds(swipe, unit, unit, unit, unit),
    st.builds(type_text, texts),
    st.sampled_from(kinds).map(press),
)
