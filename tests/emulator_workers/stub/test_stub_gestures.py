import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator_workers.devices.appium import touch_actions
from emulator_workers.stub.gestures import BadActionsError, Enter, OutOfBoundsError, Swipe, Tap, Text, gestures

WIDTH, HEIGHT = 96, 192
POINTS = st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1))


def pointer(*steps):
    return [{"type": "pointer", "id": "finger", "actions": list(steps)}]


def move(x, y, **more):
    return {"type": "pointerMove", "x": x, "y": y, **more}


def keys(*values):
    downs_and_ups = [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")]
    return [{"type": "key", "id": "keyboard", "actions": downs_and_ups}]


DOWN, UP = {"type": "pointerDown"}, {"type": "pointerUp"}


@given(POINTS, st.integers(0, 1000))
def test_what_the_devices_send_for_a_touch_is_a_tap_however_long_it_is_held(point, hold_ms):
    assert gestures(touch_actions([point], hold_ms=hold_ms), WIDTH, HEIGHT) == [Tap(*point)]


@given(POINTS, POINTS, st.integers(0, 1000))
def test_what_the_devices_send_for_a_swipe_is_a_swipe_even_to_the_same_point(start, end, move_ms):
    assert gestures(touch_actions([start, end], move_ms=move_ms), WIDTH, HEIGHT) == [Swipe(*start, *end)]


def test_a_swipe_goes_from_the_first_to_the_last_point():
    steps = (move(1, 2), DOWN, move(5, 5), move(9, 3), UP)
    assert gestures(pointer(*steps), WIDTH, HEIGHT) == [Swipe(1, 2, 9, 3)]


def test_moves_may_be_relative_to_the_finger():
    steps = (move(10, 20), DOWN, move(5, -5, origin="pointer"), UP)
    assert gestures(pointer(*steps), WIDTH, HEIGHT) == [Swipe(10, 20, 15, 15)]


def test_several_touches_of_one_finger_are_several_gestures():
    steps = (move(1, 1), DOWN, UP, move(2, 2), DOWN, move(3, 3), UP, DOWN, UP)
    assert gestures(pointer(*steps), WIDTH, HEIGHT) == [Tap(1, 1), Swipe(2, 2, 3, 3), Tap(3, 3)]


def test_a_finger_that_never_goes_down_does_nothing():
    assert gestures(pointer(move(1, 1), UP), WIDTH, HEIGHT) == []


@pytest.mark.parametrize("point", [(WIDTH, 0), (0, HEIGHT), (-1, 5)])
def test_a_finger_that_leaves_the_screen_is_refused(point):
    with pytest.raises(OutOfBoundsError):
        gestures(pointer(move(*point), DOWN, UP), WIDTH, HEIGHT)


def test_keys_write_text_and_enter_is_a_key_of_its_own():
    assert gestures(keys("h", "i", "\ue007", "x"), WIDTH, HEIGHT) == [Text("hi"), Enter(), Text("x")]


def test_keys_that_the_phone_lacks_are_left_out():
    assert gestures(keys("\ue008", "a"), WIDTH, HEIGHT) == [Text("a")]


def test_pauses_do_nothing():
    source = {"type": "none", "id": "pause", "actions": [{"type": "pause", "duration": 5}]}
    assert gestures([source], WIDTH, HEIGHT) == []


@pytest.mark.parametrize(
    "actions", [[{}], [{"type": "pointer"}], pointer({"x": 1}), pointer(move(1, 1, origin={"element": "e"})), [7]]
)
def test_what_are_no_actions_is_refused(actions):
    with pytest.raises(BadActionsError):
        gestures(actions, WIDTH, HEIGHT)
