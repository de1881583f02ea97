"""The text that the original's policy sees: the goal and the one action before.

Golden: ``Previous Actions: Goal: Go to ebay.com</s>`` at the first step of an episode.
"""

from __future__ import annotations

from digiq_ray.core.actions import Action, ActionType, Dialect, ParseError, format_action, parse_action, press
from digiq_ray.core.errors import InputError

_GOAL, _END = "Goal: ", "</s>"
_LONGEST_ACTION = 4096


def observation_text(task: str, previous: Action | None, *, first: bool) -> str:
    """The prompt of a state.

    Args:
        task: The goal.
        previous: The parsed action that led here; ``None`` if there was none or it had no meaning.
        first: Whether this is the first state of its episode.
    """
    history = "" if first else f"{_words(previous)} "
    return f"Previous Actions: {history}{_GOAL}{task}{_END}"


def task_of(observation: str) -> str:
    """The goal in a prompt; raises ``InputError`` if there is none."""
    _, found, rest = observation.partition(_GOAL)
    if not found or not rest.endswith(_END):
        raise InputError("a step has neither a task nor a prompt with a goal")
    return rest.removesuffix(_END)


def read_action(text: str) -> tuple[Action | None, str | None]:
    """What the original's policy wrote as an action, or why it is none."""
    if len(text) > _LONGEST_ACTION:
        return None, f"longer than {_LONGEST_ACTION} characters"
    try:
        return parse_action(text, Dialect.AUTOUI), None
    except ParseError as error:
        return None, str(error)


def written_action(text: str, action: Action | None) -> str | None:
    """``text`` if the original's parsers read it, else ``action`` in their words; ``None`` if they have none for it."""
    if read_action(text)[0] is not None:
        return text
    words = _words(action)
    return f"Action Plan: [{words.split(chr(34))[3]}] ; Action Decision: {words}" if words else None


def _words(action: Action | None) -> str:
    """The action as the prompt has it; like the original, giving up reads as completing and waiting as nothing."""
    if action is None:
        return ""
    if action.type is ActionType.IMPOSSIBLE:
        action = press(ActionType.COMPLETE)
    try:
        return format_action(action, Dialect.AUTOUI)
    except ParseError:
        return ""
