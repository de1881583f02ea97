import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_clients import pixels

from digiq_ray.core.tasks import Task
from emulator_workers.devices.appium import to_pixel
from emulator_workers.devices.base import Key
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.phone import CALM, Hazards
from emulator_workers.simphone.world import Release
from emulator_workers.stub.gestures import Swipe, Tap, Text
from emulator_workers.stub.screen import Clock, PhoneScreen

BUY = Task(
    "s/buy", "buy a red hat on ebuy", 20, "test", goal={"kind": "buy", "shop": "ebuy", "item": "red hat"}, seed=5
)
CODES = {Key.HOME: 3, Key.BACK: 4, Key.ENTER: 66}
WILD = Hazards(ad=0.2, lag=0.2, slow=0.5, not_responding=0.1)
# Policies speak in hundredths; the right and bottom edges themselves are on no pixel.
SHARES = st.integers(0, 99).map(lambda hundredths: hundredths / 100)
INPUTS = st.lists(
    st.one_of(
        st.tuples(st.just("tap"), SHARES, SHARES),
        st.tuples(st.just("scroll"), st.sampled_from([(0.5, 0.8, 0.5, 0.2), (0.5, 0.2, 0.5, 0.8)])),
        st.tuples(st.just("type"), st.sampled_from(["red hat", "buy milk", ""])),
        st.tuples(st.just("press"), st.sampled_from(list(Key))),
        st.tuples(st.just("wait")),
    ),
    max_size=25,
)


def screen(clock=Clock.ON_TICK, **look):
    made = PhoneScreen(**look)
    made.begin(BUY, clock)
    return made


def looked(shown):
    shown.pass_time()
    return pixels(shown.png())


def do(shown, device, given):
    """The same input on the stub's screen, in pixels, and in the process."""
    width, height = shown.width, shown.height
    match given:
        case ("tap", x, y):
            device.tap(x, y)
            shown.do(Tap(to_pixel(x, width), to_pixel(y, height)))
        case ("scroll", (x, y, x2, y2)):
            device.swipe(x, y, x2, y2)
            shown.do(Swipe(to_pixel(x, width), to_pixel(y, height), to_pixel(x2, width), to_pixel(y2, height)))
        case ("type", text):
            takes = shown.takes_text()
            assert takes == device.phone.type_text(text)
            if takes:
                shown.do(Text(text))
        case ("press", key):
            device.press(key)
            shown.press(CODES[key])


@settings(max_examples=60)
@given(INPUTS, st.integers(0, 10**6), st.sampled_from(list(Release)), st.sampled_from([1, 2]))
def test_the_same_inputs_give_the_same_pictures_as_in_the_process(inputs, seed, release, scale):
    task = Task("s/buy", "buy", 20, "test", goal=BUY.goal, seed=seed)
    device = SimulatedDevice(scale=scale, release=release, hazards=WILD)
    device.start()
    device.prepare(task)
    shown = PhoneScreen(scale=scale, release=release, hazards=WILD)
    shown.begin(task, Clock.ON_TICK)
    shown.tick()
    assert looked(shown) == pixels(device.reset().image)
    for given_input in inputs:
        do(shown, device, given_input)
        shown.tick()
        assert looked(shown) == pixels(device.screenshot().image)
        assert shown.succeeded() == device.succeeded()


def test_time_stands_still_between_ticks_however_often_one_looks():
    shown = screen()
    shown.tick()
    first = looked(shown)
    assert all(looked(shown) == first for _ in range(5))
    assert shown.phone.state.frame == 1


def test_several_ticks_before_a_look_are_one_frame():
    shown = screen()
    shown.tick()
    shown.tick()
    looked(shown)
    assert shown.phone.state.frame == 1


def test_a_look_before_the_first_tick_lets_no_time_pass():
    shown = screen()
    looked(shown)
    assert shown.phone.state.frame == 0


def test_an_input_is_shown_without_a_tick_but_lets_no_time_pass():
    shown = screen(hazards=CALM)
    before = looked(shown)
    shown.do(Tap(16, 48))
    assert looked(shown) != before
    assert shown.phone.state.frame == 0


def test_the_clock_of_strangers_goes_on_at_each_input_and_at_the_beginning():
    shown = screen(Clock.ON_INPUT, hazards=CALM)
    frames = []
    for act in (lambda: None, lambda: None, lambda: shown.press(3), shown.takes_text, lambda: None):
        act()
        frames.append(shown.pass_time())
    assert frames == [0, None, 1, 2, None]


def test_asking_whether_text_is_taken_changes_nothing():
    shown = screen(hazards=WILD)
    before = repr((shown.phone.state, shown.phone.random.getstate()))
    assert not shown.takes_text()
    assert repr((shown.phone.state, shown.phone.random.getstate())) == before


def test_a_picture_is_encoded_once():
    shown = screen()
    assert shown.png() is shown.png()


def test_the_dialog_of_an_app_that_does_not_respond_covers_the_screen():
    shown = screen(hazards=CALM)
    before = looked(shown)
    shown.show_not_responding()
    assert looked(shown) != before
    assert {element.tag for element in shown.phone.elements()} == {"wait", "close"}


@pytest.mark.parametrize("scale", [1, 3, 11])
def test_screens_are_as_large_as_their_scale_says(scale):
    shown = screen(scale=scale)
    assert pixels(shown.png()).startswith(repr((96 * scale, 192 * scale)).encode())
    assert (shown.width, shown.height) == (96 * scale, 192 * scale)
