"""Reading lessons for the tiny VLM: questions about random screens with exact answers, in the words of the grammar.

They teach to read screens (what is where, what is on or typed) and to follow the grammar. Every screen, word and icon
occurs, those of the test tasks too, as a real VLM has seen every word. No lesson shows what a control *does*, and none
holds a task of the task sets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from digiq_ray.core.actions import format_action, type_text
from digiq_ray.core.tasks import Task
from emulator_workers.simphone.oracle import touch
from emulator_workers.simphone.phone import Element, Hazards, SimPhone
from emulator_workers.simphone.tasks import WORDINGS
from emulator_workers.simphone.world import (
    AD_CROSSES,
    APPS,
    COLOURS,
    HOURS,
    ITEMS,
    NOTE_NOUNS,
    NOTE_VERBS,
    NOTES,
    OBJECTS,
    SHOPS,
    TOGGLES,
)

_SCREENS = (
    "home", "home", "browser", "browser", "browser", "shop", "shop", "results", "results", "results", "results",
    "results", "results", "product", "product", "product", "product", "settings", "settings", "clock", "new_alarm",
    "new_alarm", "notes", "cart", "mail", "weather",
)  # fmt: skip
_NAMES = {
    "cross": "cross", "advert": "advert", "field": "field", "magnifier": "magnifier", "note": "field", "add": "add",
    "plus": "plus", "alarms": "list", "save": "save", "wait": "wait", "close": "close", "deal": "deal",
}  # fmt: skip
_LESSON_WORDS = (
    "find name which screen is on chosen typed typing product none alarm page loading advert first colour thing at "
    "shop tap app what where row last here"
)


def words() -> set[str]:
    """Every word that lessons and tasks use."""
    found = set(_LESSON_WORDS.split()) | set(_NAMES.values()) | {screen.replace("_", "-") for screen in _SCREENS}
    found |= {*APPS, *SHOPS, *COLOURS, *OBJECTS, *TOGGLES, *HOURS, *NOTE_VERBS, *NOTE_NOUNS, "on", "off", "yes", "no"}
    for by_split in WORDINGS.values():
        for wording in (w for wordings in by_split.values() for w in wordings):
            found |= {word for word in wording.split() if "{" not in word}
    return found


def random_phone(rng: random.Random) -> SimPhone:
    """A phone in a random state."""
    task = Task("lesson", "", 1, "train", goal={"kind": "none"}, seed=rng.getrandbits(31))
    phone = SimPhone(task, hazards=Hazards(0, 0, 0, 0))
    state = phone.state
    state.screen = rng.choice(_SCREENS)
    state.frame, state.animation = rng.randrange(20), rng.randrange(8)
    state.shop, state.product = rng.choice(SHOPS), rng.choice(ITEMS)
    state.came_from = "results"
    if state.screen == "results":
        state.typed = rng.choice(ITEMS)
        phone._search()
        state.page = rng.randrange(2)
    state.scrolled = rng.random() < 0.5
    state.toggles = {name: rng.random() < 0.5 for name in TOGGLES}
    if state.screen in ("shop", "notes") and rng.random() < 0.6:
        state.focused = True
        state.typed = rng.choice(("", rng.choice(NOTES if state.screen == "notes" else ITEMS)))
    if state.screen == "notes" and rng.random() < 0.4:
        state.notes = (rng.choice(NOTES),)
    if state.screen == "clock" and rng.random() < 0.4:
        state.alarms = (rng.choice(HOURS),)
    if state.screen == "new_alarm" and rng.random() < 0.6:
        state.hour = rng.choice(HOURS)
    draw = rng.random()
    if draw < 0.08:
        state.ad = rng.randrange(len(AD_CROSSES))
    elif draw < 0.1:
        state.not_responding = True
    elif draw < 0.12:
        state.loading = True
    return phone


def _name(element: Element) -> str:
    return element.name if element.tag in ("app", "shop", "toggle", "hour", "result") else _NAMES[element.tag]


def questions(phone: SimPhone, rng: random.Random, most: int = 9) -> Iterator[tuple[str, str]]:
    """Pairs of question and answer about the present screen, in random order: any may be the first that is asked."""
    state = phone.state
    covered = state.ad is not None or state.not_responding or state.loading
    name = "advert" if state.ad is not None else state.screen.replace("_", "-")
    name = "wait" if state.not_responding else "loading" if state.loading else name
    found = [("which screen", name)]
    for element in phone.elements():
        point = format_action(touch(element))
        where = point.removeprefix("tap ")
        if element.tag in ("deal", "result"):
            colour, _, thing = element.name.partition(" ")
            found += [(f"colour at {where}", colour), (f"thing at {where}", thing)]
        if element.tag != "deal":
            found += [(f"find {_name(element)}", point), (f"name {where}", _name(element))]
    if not covered:
        found += _details(phone, rng)
    rng.shuffle(found)
    yield from found[:most]


def _details(phone: SimPhone, rng: random.Random) -> list[tuple[str, str]]:
    state, found = phone.state, []
    if state.screen == "settings":
        found += [(f"is {name} on", "yes" if on else "no") for name, on in state.toggles.items()]
    if state.screen == "product" and not (phone.long_page and state.scrolled):
        colour, _, thing = state.product.partition(" ")
        found += [("which product", state.product), ("which colour", colour), ("which thing", thing)]
    if state.screen in ("shop", "results", "product"):
        found.append(("which page", state.shop))
    if state.screen in ("shop", "notes"):
        found += [("is field on", "yes" if state.focused else "no"), ("is typed", "yes" if state.typed else "no")] * 2
        text = rng.choice(ITEMS + NOTES)
        found += [(f"typing {text}", format_action(type_text(text)))] * 2
    if state.screen == "new_alarm":
        found.append(("which chosen", state.hour or "none"))
    return found
