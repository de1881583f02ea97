"""Actions: exact round trips in both dialects, and nothing but ``ParseError`` for what is not an action."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from digiq_ray.core.actions import (
    Action,
    ActionType,
    Dialect,
    ParseError,
    format_action,
    parse_action,
    press,
    swipe,
    tap,
    type_text,
)

coordinates = st.floats(0, 1)
touches = st.one_of(
    st.builds(tap, coordinates, coordinates),
    st.builds(swipe, coordinates, coordinates, coordinates, coordinates),
    st.builds(lambda x, y: Action(ActionType.LONG_PRESS, x, y), coordinates, coordinates),
)
buttons = st.sampled_from(
    [press(kind) for kind in ActionType if kind.value in ("back", "home", "enter", "wait", "complete", "impossible")]
)
typing = st.builds(type_text, st.text())
actions = st.one_of(touches, buttons, typing)


def autoui(kind: str, touch: str = "[-1.0, -1.0]", lift: str = "[-1.0, -1.0]", typed: str = "") -> str:
    return (
        f'Action Plan: [DUAL_POINT,TYPE] ; Action Decision: "action_type": "{kind}", "touch_point": "{touch}", '
        f'"lift_point": "{lift}", "typed_text": "{typed}"'
    )


def parse_autoui(text: str) -> Action:
    return parse_action(text, Dialect.AUTOUI)


@given(actions)
@example(type_text(""))
@example(type_text(" \\ \u2028\x85\u3000 "))
@example(type_text('quotes " and \\" and \n'))
@example(swipe(0.5, 0.5, 0.5, 0.5))
@example(tap(-0.0, 0.0))
def test_digiq_text_gives_the_same_action_back_in_one_line(action):
    text = format_action(action)
    assert len(text.splitlines()) == 1
    assert parse_action(text) == action


@given(actions)
@example(type_text("Action Decision: tap"))
@example(type_text('", "action_type": "PRESS_HOME", "x": "'))
@example(type_text('\\"\n\x00\u2028'))
def test_autoui_text_gives_the_same_action_back(action):
    assume(action.type not in (ActionType.LONG_PRESS, ActionType.WAIT))
    assume(action.type is not ActionType.SWIPE or (action.x, action.y) != (action.x2, action.y2))
    assert parse_autoui(format_action(action, Dialect.AUTOUI)) == action


@given(st.text(), st.sampled_from(Dialect))
@example("type \\ud800", Dialect.DIGIQ)
@example("type \\", Dialect.DIGIQ)
@example("tap ٣ 0.5", Dialect.DIGIQ)
@example("tap " + "9" * 5000 + " 0", Dialect.DIGIQ)
@example(autoui("DUAL_POINT", "[1.2.3, 0]", "[0, 0]"), Dialect.AUTOUI)
@example(autoui("TYPE", typed="\\ud800"), Dialect.AUTOUI)
@example("Action Decision:", Dialect.AUTOUI)
def test_any_text_is_an_action_or_a_parse_error(text, dialect):
    try:
        action = parse_action(text, dialect)
    except ParseError:
        return
    assert parse_action(format_action(action, dialect), dialect) == action


verbs = st.sampled_from([kind.value for kind in ActionType])
words = st.lists(st.one_of(st.floats(-2, 2).map(str), st.text(max_size=3)), max_size=5).map(" ".join)


@given(verbs, words)
def test_a_verb_with_any_words_is_an_action_that_round_trips_or_a_parse_error(verb, rest):
    try:
        action = parse_action(f"{verb} {rest}")
    except ParseError:
        return
    assert action.type == verb
    assert parse_action(format_action(action)) == action


points = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)).map(lambda point: f"[{point[0]:.5f}, {point[1]:.5f}]")
names = st.sampled_from(["DUAL_POINT", "TYPE", "PRESS_BACK", "STATUS_TASK_COMPLETE", "TASK_IMPOSSIBLE", "LONG_PRESS"])


@given(names, points, points, st.text())
@example("DUAL_POINT", "[0.12344, 0.5]", "[0.12341, 0.5]", "")
def test_autoui_fields_with_any_values_are_an_action_that_round_trips_or_a_parse_error(kind, touch, lift, typed):
    try:
        action = parse_autoui(autoui(kind, touch, lift, typed))
    except ParseError:
        return
    assert parse_autoui(format_action(action, Dialect.AUTOUI)) == action


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("tap 0.52 0.34", tap(0.52, 0.34)),
        ("  tap 1 .5\n", tap(1.0, 0.5)),
        ("swipe 0.50 0.80 0.50 0.20", swipe(0.5, 0.8, 0.5, 0.2)),
        ("long_press 0.10 0.90", Action(ActionType.LONG_PRESS, 0.1, 0.9)),
        ("type red mug", type_text("red mug")),
        ("type", type_text("")),
        ('type the "red" mug, 6:30', type_text('the "red" mug, 6:30')),
        ("type two\\nlines", type_text("two\nlines")),
        ("complete", press(ActionType.COMPLETE)),
    ],
)
def test_digiq_examples(text, action):
    assert parse_action(text) == action


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "TAP 0.5 0.5",
        "tap",
        "tap 0.5",
        "tap 0.5 0.5 0.5",
        "tap 0.5, 0.5",
        "tap nan 0.5",
        "tap 1e-1 0.5",
        "tap 1.2 0.5",
        "tap -0.1 0.5",
        "swipe 0.5 0.5",
        "back now",
        "double_tap 0.5 0.5",
        "type red mug\nenter",
        "type a\\qb",
    ],
)
def test_digiq_text_that_is_no_action_is_a_parse_error(text):
    with pytest.raises(ParseError):
        parse_action(text)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (autoui("DUAL_POINT", "[0.7852, 0.6779]", "[0.7852, 0.6779]"), tap(0.6779, 0.7852)),
        (autoui("DUAL_POINT", "[0.8, 0.5]", "[0.2, 0.5]"), swipe(0.5, 0.8, 0.5, 0.2)),
        (autoui("DUAL_POINT", "[0.7,0.6]", "[0.7,0.6]"), tap(0.6, 0.7)),
        (autoui("TYPE", typed="macbook air"), type_text("macbook air")),
        (autoui("TYPE", typed="mug, red"), type_text("mug, red")),
        (autoui("TYPE", typed="time: 6pm"), type_text("time: 6pm")),
        (autoui("TYPE", typed='search for "macbook"'), type_text('search for "macbook"')),
        (autoui("TYPE", typed='a "b", "c" d'), type_text('a "b", "c" d')),
        (autoui("TYPE", typed=""), type_text("")),
        (autoui("PRESS_BACK"), press(ActionType.BACK)),
        (autoui("PRESS_HOME"), press(ActionType.HOME)),
        (autoui("PRESS_ENTER"), press(ActionType.ENTER)),
        (autoui("STATUS_TASK_COMPLETE"), press(ActionType.COMPLETE)),
        (autoui("STATUS_TASK_IMPOSSIBLE"), press(ActionType.IMPOSSIBLE)),
        (autoui("TASK_IMPOSSIBLE"), press(ActionType.IMPOSSIBLE)),
        (autoui("PRESS_BACK").partition("Action Decision: ")[2], press(ActionType.BACK)),
        (autoui("TYPE", typed="shoes") + "</s>", type_text("shoes")),
    ],
)
def test_autoui_examples(text, action):
    assert parse_autoui(text) == action


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "action_type"),
        ("I would tap the button", "action_type"),
        (autoui("LONG_PRESS"), "LONG_PRESS"),
        (autoui("DUAL_POINT", "[0.7, ]", "[0.7, 0.6]"), "touch_point"),
        (autoui("DUAL_POINT", "[0.7, 0.6]", "0.7, 0.6"), "lift_point"),
        (autoui("DUAL_POINT", "[1.7, 0.6]", "[1.7, 0.6]"), "tap: y=1.7"),
        (autoui("DUAL_POINT"), "outside"),
        (autoui("TYPE", typed='x", "action_type": "PRESS_BACK'), "twice"),
        (autoui("TYPE", typed="a\\qb"), "typed_text"),
        ('"action_type": "PRESS_BACK"', "touch_point is missing"),
    ],
)
def test_autoui_text_that_is_no_action_names_what_is_wrong(text, wrong):
    with pytest.raises(ParseError, match=wrong.replace("[", r"\[")):
        parse_autoui(text)


@pytest.mark.parametrize("kind", [ActionType.LONG_PRESS, ActionType.WAIT])
def test_autoui_has_no_words_for_some_actions(kind):
    action = Action(kind, 0.5, 0.5) if kind is ActionType.LONG_PRESS else Action(kind)
    with pytest.raises(ParseError, match=kind):
        format_action(action, Dialect.AUTOUI)


def test_autoui_refuses_a_swipe_that_it_would_read_as_a_tap():
    with pytest.raises(ParseError, match="does not move"):
        format_action(swipe(0.5, 0.5, 0.5, 0.50001), Dialect.AUTOUI)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ActionType.TAP, {}),
        (ActionType.TAP, {"x": 0.5}),
        (ActionType.TAP, {"x": 0.5, "y": float("nan")}),
        (ActionType.TAP, {"x": 0.5, "y": 0.5, "text": "a"}),
        (ActionType.SWIPE, {"x": 0.5, "y": 0.5}),
        (ActionType.BACK, {"x": 0.5, "y": 0.5}),
        (ActionType.TYPE, {}),
        (ActionType.TYPE, {"text": "half a pair: \ud83d"}),
    ],
)
def test_an_action_with_fields_of_another_type_cannot_be_made(kind, fields):
    with pytest.raises(ParseError):
        Action(kind, **fields)


def test_coordinates_are_kept_to_four_decimals():
    assert tap(0.123456, 1).x == 0.1235
    assert format_action(tap(0.123456, 1)) == "tap 0.1235 1.00"


def test_minus_zero_has_the_text_of_zero():
    assert format_action(tap(-0.0, 0.0)) == "tap 0.00 0.00"


@pytest.mark.parametrize("kind", ActionType)
def test_only_complete_and_impossible_end_an_episode(kind):
    count = {ActionType.TAP: 2, ActionType.LONG_PRESS: 2, ActionType.SWIPE: 4}.get(kind, 0)
    action = Action(kind, *[0.5] * count, text="" if kind is ActionType.TYPE else None)
    assert action.ends_episode == (kind in (ActionType.COMPLETE, ActionType.IMPOSSIBLE))
