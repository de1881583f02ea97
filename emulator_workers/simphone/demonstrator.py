"""A demonstrator with systematic mistakes, on the textbook release: what the behaviour policy is cloned from.

It takes the best action four times in ten. Otherwise it mostly makes the mistake that is typical of the screen
(the first result whatever it is, the advertisement's body, the banner), and now and then does something random, or
declares the task complete too early.
Without systematic mistakes the likeliest action would already solve the tasks, and every method would seem to work.
"""

from __future__ import annotations

import random

from digiq_ray.core.actions import Action, ActionType, press, tap, type_text
from emulator_workers.simphone.oracle import BACK, ENTER, HOME, SCROLL_DOWN, WAIT, best_action, touch
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.world import ITEMS, NOTES

# Situation -> probabilities of (best action, typical mistake); the rest is noise. Where the updated release works
# differently (advert, clock, shop_typed, notes_typed) the textbook's action is the likeliest, so that the likeliest
# action of whoever clones this is wrong there.
_SHARES = {
    "advert": (0.47, 0.36),
    "ad_page": (0.45, 0.35),
    "loading": (0.50, 0.35),
    "not_responding": (0.50, 0.35),
    "home": (0.42, 0.43),
    "browser": (0.42, 0.44),
    "shop": (0.38, 0.48),
    "shop_focused": (0.42, 0.44),
    "shop_typed": (0.48, 0.34),
    "results": (0.40, 0.46),
    "product": (0.42, 0.43),
    "settings": (0.38, 0.48),
    "clock": (0.48, 0.34),
    "new_alarm": (0.40, 0.46),
    "new_alarm_chosen": (0.44, 0.40),
    "notes": (0.40, 0.46),
    "notes_focused": (0.42, 0.44),
    "notes_typed": (0.48, 0.34),
    "other": (0.42, 0.40),
}


def situation(phone: SimPhone) -> str:
    """The key of the table of shares for the present state."""
    state = phone.state
    if state.loading:
        return "loading"
    if state.not_responding:
        return "not_responding"
    if state.ad is not None:
        return "advert"
    if state.ad_page:
        return "ad_page"
    name = state.screen
    if name in ("shop", "notes") and (state.focused or state.typed):
        name += "_typed" if state.typed else "_focused"
    if name == "new_alarm" and state.hour:
        name += "_chosen"
    return name if name in _SHARES else "other"


def _mistake(phone: SimPhone, where: str, rng: random.Random) -> Action:
    state = phone.state
    elements = {element.tag: element for element in reversed(phone.elements())}
    match where:
        case "advert":
            return touch(elements["advert"])
        case "loading" | "product":
            return tap(0.5, 0.9) if where == "product" and phone.long_page and not state.scrolled else BACK
        case "not_responding":
            return touch(elements["close"])
        case "home":
            return touch(rng.choice(phone.elements()))
        case "browser":
            return touch(elements["shop"])
        case "shop":
            return touch(elements["deal"])
        case "shop_focused":
            return type_text(rng.choice(ITEMS))
        case "shop_typed":
            return touch(elements["magnifier"])
        case "results":
            return touch(elements["result"])
        case "settings":
            return touch(elements["toggle"])
        case "clock":
            return touch(elements["alarms"])
        case "new_alarm" | "new_alarm_chosen":
            return touch(elements["hour"])
        case "notes":
            return type_text(rng.choice(NOTES))
        case "notes_focused":
            return type_text(rng.choice(NOTES))
        case "notes_typed":
            return BACK
        case _:
            return tap(0.5, 0.5)


def _noise(phone: SimPhone, rng: random.Random) -> Action:
    draw, elements = rng.random(), phone.elements()
    if draw < 0.35 and elements:
        return touch(rng.choice(elements))
    if draw < 0.6:
        return tap(rng.randrange(1, 25) * 0.04, rng.randrange(1, 25) * 0.04)
    if draw < 0.80:
        other = (BACK, BACK, HOME, SCROLL_DOWN, SCROLL_DOWN, ENTER, WAIT, type_text(rng.choice(ITEMS + NOTES)))
        return rng.choice(other)
    return press(ActionType.COMPLETE)


def _jitter(action: Action, rng: random.Random) -> Action:
    if action.type is not ActionType.TAP or action.x is None or action.y is None:
        return action
    return tap(min(0.98, max(0.02, action.x + rng.choice((-0.04, 0.0, 0.0, 0.04)))), action.y)


def demonstrate(phone: SimPhone, rng: random.Random) -> Action:
    """The demonstrator's next action."""
    where = situation(phone)
    best, mistake = _SHARES[where]
    draw = rng.random()
    if draw < best:
        return _jitter(best_action(phone), rng)
    if draw < best + mistake:
        return _jitter(_mistake(phone, where, rng), rng)
    return _noise(phone, rng)
