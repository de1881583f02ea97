r"""The action grammar: a closed set of actions, and their texts in two dialects with an exact round trip.

Coordinates are normalised to [0, 1] with the origin at the top left, ``(x, y)``, and are kept to four decimals (about
half a pixel on a 2,000-pixel screen), so that ``parse(format(action)) == action`` holds exactly.

The project's own dialect is one line, the verb first::

    tap 0.52 0.34        swipe 0.50 0.80 0.50 0.20        long_press 0.10 0.90
    type red mug         back   home   enter   wait   complete   impossible

Text after ``type`` runs to the end of the line, with JSON escapes (so a newline is ``\n``) and without quotes.
The AutoUI dialect is that of the original code (``"action_type": "DUAL_POINT", ...``; y before x there).
"""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass

from digiq_ray.core.errors import DigiQError


class ActionType(enum.StrEnum):
    """Kinds of actions; the value is the verb of the project's dialect."""

    TAP = "tap"
    SWIPE = "swipe"
    LONG_PRESS = "long_press"
    TYPE = "type"
    BACK = "back"
    HOME = "home"
    ENTER = "enter"
    WAIT = "wait"
    COMPLETE = "complete"
    IMPOSSIBLE = "impossible"


class Dialect(enum.StrEnum):
    """Text forms of an action."""

    DIGIQ = "digiq"
    AUTOUI = "autoui"


class ParseError(DigiQError):
    """A text is not an action of the grammar. The message names the first thing that is wrong."""


_POINTS = {ActionType.TAP: 1, ActionType.LONG_PRESS: 1, ActionType.SWIPE: 2}
_COORDINATES = ("x", "y", "x2", "y2")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
ENDING_ACTIONS = frozenset({ActionType.COMPLETE, ActionType.IMPOSSIBLE})


@dataclass(frozen=True, slots=True)
class Action:
    """One action. ``x, y`` (and ``x2, y2`` for a swipe) are set for touches, ``text`` for typing, otherwise ``None``.

    Raises:
        ParseError: a coordinate is missing, not finite or outside [0, 1], a field does not belong to the type, or the
            text cannot be stored as UTF-8 (it holds half a surrogate pair).
    """

    type: ActionType
    x: float | None = None
    y: float | None = None
    x2: float | None = None
    y2: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        needed = 2 * _POINTS.get(self.type, 0)
        for index, name in enumerate(_COORDINATES):
            value = getattr(self, name)
            if (value is not None) != (index < needed):
                raise ParseError(f"{self.type}: {name} must be {'given' if index < needed else 'left out'}")
            if value is None:
                continue
            if not math.isfinite(value) or not 0.0 <= value <= 1.0:
                raise ParseError(f"{self.type}: {name}={value} is outside [0, 1]")
            object.__setattr__(self, name, round(float(value), 4) + 0.0)  # + 0.0: never minus zero
        if (self.text is not None) != (self.type is ActionType.TYPE):
            raise ParseError(f"{self.type}: text must be {'given' if self.type is ActionType.TYPE else 'left out'}")
        if self.text is not None and _SURROGATE.search(self.text):
            raise ParseError(f"{self.type}: half a surrogate pair in {self.text[:40]!r}")

    @property
    def ends_episode(self) -> bool:
        """Whether the agent stops with this action."""
        return self.type in ENDING_ACTIONS


def tap(x: float, y: float) -> Action:
    """A tap at ``(x, y)``."""
    return Action(ActionType.TAP, x, y)


def swipe(x: float, y: float, x2: float, y2: float) -> Action:
    """A swipe from ``(x, y)`` to ``(x2, y2)``."""
    return Action(ActionType.SWIPE, x, y, x2, y2)


def type_text(text: str) -> Action:
    """Typing ``text`` into what has the focus."""
    return Action(ActionType.TYPE, text=text)


def press(kind: ActionType) -> Action:
    """An action without arguments: back, home, enter, wait, complete, impossible."""
    return Action(kind)


def format_action(action: Action, dialect: Dialect = Dialect.DIGIQ) -> str:
    """The text of ``action`` in ``dialect``; ``parse_action`` gives the same action back.

    Raises:
        ParseError: the dialect has no words for the action (AutoUI knows neither long presses nor waiting).
    """
    if dialect is Dialect.AUTOUI:
        return _format_autoui(action)
    if action.type is ActionType.TYPE:
        return f"{action.type} {_escape(action.text or '')}".rstrip(" ")
    points = (action.x, action.y, action.x2, action.y2)
    return " ".join([str(action.type), *(_number(value) for value in points if value is not None)])


def parse_action(text: str, dialect: Dialect = Dialect.DIGIQ) -> Action:
    """Reads one action from what a model wrote. White space around it is ignored.

    Raises:
        ParseError: the text is not exactly one action of the grammar.
    """
    return _parse_autoui(text) if dialect is Dialect.AUTOUI else _parse_digiq(text)


def _number(value: float) -> str:
    short = f"{value:.4f}".rstrip("0")
    return short.ljust(short.index(".") + 3, "0")


def _escape(text: str) -> str:
    inner = json.dumps(text, ensure_ascii=False)[1:-1].replace("\x85", "\\u0085")
    inner = inner.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    kept = inner.strip()
    if kept == inner:
        return inner
    start = inner.index(kept) if kept else len(inner)
    spaces = [f"\\u{ord(char):04x}" for char in inner]
    return "".join(spaces[:start]) + kept + "".join(spaces[start + len(kept) :])


def _unescape(text: str, name: str = "type") -> str:
    try:
        return str(json.loads('"' + re.sub(r'(\\.)|"', lambda m: m[1] or '\\"', text) + '"', strict=False))
    except ValueError as error:
        raise ParseError(f"{name}: a backslash that escapes nothing in {text[:40]!r}") from error


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


def _parse_digiq(text: str) -> Action:
    verb, _, rest = text.strip().partition(" ")
    try:
        kind = ActionType(verb)
    except ValueError as error:
        raise ParseError(f"unknown action {verb[:40]!r}") from error
    if kind is ActionType.TYPE:
        if len(rest.splitlines()) > 1:
            raise ParseError("type: more follows after the end of the line")
        return Action(kind, text=_unescape(rest.strip()))
    words = rest.split()
    if len(words) != 2 * _POINTS.get(kind, 0):
        raise ParseError(f"{kind} takes {2 * _POINTS.get(kind, 0)} numbers, not {len(words)}")
    for word in words:
        if not _NUMBER.fullmatch(word):
            raise ParseError(f"{kind}: {word[:40]!r} is not a number")
    numbers: list[float | None] = [*map(float, words), None, None, None, None]
    x, y, x2, y2 = numbers[:4]
    return Action(kind, x, y, x2, y2)


_AUTOUI_NAME = {
    ActionType.TAP: "DUAL_POINT",
    ActionType.SWIPE: "DUAL_POINT",
    ActionType.TYPE: "TYPE",
    ActionType.BACK: "PRESS_BACK",
    ActionType.HOME: "PRESS_HOME",
    ActionType.ENTER: "PRESS_ENTER",
    ActionType.COMPLETE: "STATUS_TASK_COMPLETE",
    ActionType.IMPOSSIBLE: "STATUS_TASK_IMPOSSIBLE",
}
_AUTOUI_TYPE = {name: kind for kind, name in _AUTOUI_NAME.items() if name != "DUAL_POINT"}
_AUTOUI_FIELD = re.compile(r'"(action_type|touch_point|lift_point|typed_text)"\s*:\s*("(?:[^"\\]|\\.)*")')
_AUTOUI_POINT = re.compile(r"\[\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*,\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*\]")


def _format_autoui(action: Action) -> str:
    if action.type not in _AUTOUI_NAME:
        raise ParseError(f"the AutoUI dialect has no words for {action.type}")

    def point(x: float | None, y: float | None) -> str:
        return "[-1.0, -1.0]" if x is None or y is None else f"[{y:.4f}, {x:.4f}]"

    touch = point(action.x, action.y)
    lift = point(action.x2, action.y2) if action.type is ActionType.SWIPE else touch
    if action.type is ActionType.SWIPE and lift == touch:
        raise ParseError("the AutoUI dialect reads a swipe that does not move as a tap")
    return (
        f'"action_type": "{_AUTOUI_NAME[action.type]}", "touch_point": "{touch}", "lift_point": "{lift}", '
        f'"typed_text": {json.dumps(action.text or "", ensure_ascii=False)}'
    )


def _parse_autoui(text: str) -> Action:
    found = _autoui_fields(text)
    name = found["action_type"]
    if name == "TASK_IMPOSSIBLE":
        name = "STATUS_TASK_IMPOSSIBLE"
    if name in _AUTOUI_TYPE:
        kind = _AUTOUI_TYPE[name]
        return Action(kind, text=found["typed_text"] if kind is ActionType.TYPE else None)
    if name != "DUAL_POINT":
        raise ParseError(f"unknown action_type {name[:40]!r}")
    (x, y), (x2, y2) = _autoui_point(found, "touch_point"), _autoui_point(found, "lift_point")
    return tap(x, y) if (x, y) == (x2, y2) else swipe(x, y, x2, y2)


def _autoui_fields(text: str) -> dict[str, str]:
    head, _, tail = text.partition("Action Decision:")
    decision = tail if tail and '"action_type"' not in head else text  # a marker after the fields was typed
    found: dict[str, str] = {}
    position = 0
    while match := _AUTOUI_FIELD.search(decision, position):
        name, value = match[1], match[2]
        if name in found:
            raise ParseError(f"{name} is given twice")
        position = match.end()
        if name == "typed_text" and not _AUTOUI_FIELD.search(decision, position):
            # It is the last field: a quote that follows was typed, by a model that does not escape quotes.
            closing = decision.rfind('"')
            if closing >= position:
                value, position = decision[match.start(2) : closing + 1], closing + 1
        found[name] = _unescape(value[1:-1], name)
    for name in ("action_type", "touch_point", "lift_point", "typed_text"):
        if name not in found:
            raise ParseError(f"{name} is missing")
    return found


def _autoui_point(found: dict[str, str], field: str) -> tuple[float, float]:
    match = _AUTOUI_POINT.fullmatch(found[field].strip())
    if match is None:
        raise ParseError(f"{field} is not a point: {found[field][:40]!r}")
    return round(float(match[2]), 4), round(float(match[1]), 4)


def action_or_none(text: str) -> Action | None:
    """The action that ``text`` writes in the project's dialect, or ``None`` if it is none of the grammar."""
    try:
        return parse_action(text)
    except ParseError:
        return None
