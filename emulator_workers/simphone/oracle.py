"""The simulator's knowledge: a best next action, how far the goal is, and whether an action gets nearer.

For diagnosis and for the demonstrator only; nothing that trains on the tasks may ask it.
"""

from __future__ import annotations

import random

from digiq_ray.core.actions import Action, ActionType, press, swipe, tap, type_text
from emulator_workers.simphone.phone import CALM, Element, SimPhone
from emulator_workers.simphone.world import Release

SCROLL_DOWN = swipe(0.5, 0.8, 0.5, 0.2)
SCROLL_UP = swipe(0.5, 0.2, 0.5, 0.8)
BACK, HOME, ENTER, WAIT = (
    press(kind) for kind in (ActionType.BACK, ActionType.HOME, ActionType.ENTER, ActionType.WAIT)
)
UNREACHABLE = 30


def touch(element: Element) -> Action:
    """A tap on the middle of an element, on the grid of 0.02."""
    x, y = element.centre
    return tap(round(x * 50) / 50, round(y * 50) / 50)


def _find(phone: SimPhone, tag: str, name: str = "") -> Action:
    return touch(next(e for e in phone.elements() if e.tag == tag and e.name == name))


def best_action(phone: SimPhone) -> Action:
    """The next action of a player who knows the release and always searches for a product by its name.

    It is the shortest way from the start of every task, but for two detours: a deal that happens to be the product
    would save the search, and deep in a wrong shop the home key would save a step or two of going back.
    """
    state, goal, textbook = phone.state, phone.task.goal, phone.release is Release.TEXTBOOK
    if state.loading:
        return WAIT
    if state.not_responding:
        return _find(phone, "wait")
    if state.ad is not None:
        return _find(phone, "cross" if textbook else "advert")
    if state.ad_page:
        return BACK
    screen, kind = state.screen, goal["kind"]
    if kind in ("go", "search", "buy"):
        return _shopping(phone)
    app = {"open": goal.get("app", ""), "toggle": "settings", "alarm": "clock", "note": "notes"}[kind]
    if screen == "home":
        return _find(phone, "app", app)
    if screen == "settings" and kind == "toggle":
        return _find(phone, "toggle", goal["toggle"])
    if screen == "clock" and kind == "alarm":
        return _find(phone, "plus" if textbook else "alarms")
    if screen == "new_alarm" and kind == "alarm":
        return _find(phone, "save") if state.hour == goal["hour"] else _find(phone, "hour", goal["hour"])
    if screen == "notes" and kind == "note":
        if not state.focused:
            return _find(phone, "note")
        if state.typed != goal["note"]:
            return type_text(goal["note"])
        return ENTER if textbook else BACK
    return HOME


def _shopping(phone: SimPhone) -> Action:
    state, goal = phone.state, phone.task.goal
    item, screen = goal.get("item", ""), state.screen
    if screen == "home":
        return _find(phone, "app", "browser")
    if screen == "browser":
        return _find(phone, "shop", goal["shop"])
    if screen not in ("shop", "results", "product", "cart"):
        return HOME
    if state.shop != goal["shop"]:
        return BACK
    if screen == "shop":
        if state.typed == item:
            if phone.release is Release.TEXTBOOK:
                return ENTER
            return _find(phone, "magnifier")
        return type_text(item) if state.focused else _find(phone, "field")
    if screen == "results":
        if state.query != item:
            return _find(phone, "field")
        if item in phone.visible:
            return _find(phone, "result", item)
        return SCROLL_UP if state.page else SCROLL_DOWN
    if screen == "product" and state.product == item:
        return SCROLL_DOWN if phone.long_page and not state.scrolled else _find(phone, "add")
    return BACK


def apply(phone: SimPhone, action: Action) -> None:
    """Carries out one action on the state machine (no time passes)."""
    match action.type:
        case ActionType.TAP | ActionType.LONG_PRESS:
            phone.tap(action.x or 0.0, action.y or 0.0)
        case ActionType.SWIPE:
            phone.swipe(action.x or 0.0, action.y or 0.0, action.x2 or 0.0, action.y2 or 0.0)
        case ActionType.TYPE:
            phone.type_text(action.text or "")
        case ActionType.BACK:
            phone.press_back()
        case ActionType.HOME:
            phone.press_home()
        case ActionType.ENTER:
            phone.press_enter()
        case ActionType.WAIT:
            phone.state.loading = False
        case ActionType.COMPLETE | ActionType.IMPOSSIBLE:
            pass


class _Even(random.Random):
    """Always the middle: no chance event whose probability is below one half happens."""

    def random(self) -> float:
        return 0.5


def _without_chance(phone: SimPhone) -> SimPhone:
    ahead = phone.clone(CALM)
    ahead.random = _Even()
    return ahead


def distance(phone: SimPhone) -> int:
    """How many of the best actions lead to the goal; ``UNREACHABLE`` if that many or more.

    On a calm phone, whose coming searches find the product on the first page: what chance will do counts for nothing,
    so that the distance is a function of the state alone.
    """
    ahead = _without_chance(phone)
    for count in range(UNREACHABLE):
        if ahead.succeeded():
            return count
        apply(ahead, best_action(ahead))
    return UNREACHABLE


def makes_progress(phone: SimPhone, action: Action | None) -> bool:
    """Whether ``action`` makes ``distance`` smaller. ``None`` (unparsable) and actions that end the episode do not."""
    if action is None or action.ends_episode:
        return False
    ahead = _without_chance(phone)
    before = distance(ahead)
    apply(ahead, action)
    return distance(ahead) < before
