"""What every ``Device`` must do. A new backend is one more ``DeviceCase`` in ``CASES``."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from PIL import Image

from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import ActionRejected, Device, DeviceError, Frame, Key, Recovery, Reset
from emulator_workers.devices.chromium import ChromiumDevice
from emulator_workers.environment import TaskAware
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.phone import CALM
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.device import StubDevice
from emulator_workers.stub.phone import StubPhone
from emulator_workers.webphone.device import WebPhoneDevice
from tests.emulator_workers.appium_testing import need_adb, need_appium, need_chromium, shared_server, site

TASK = Task("contract/0", "open the notes app", 10, "test", kind="open", goal={"kind": "open", "app": "notes"}, seed=3)


@dataclass(frozen=True)
class DeviceCase:
    """One backend.

    Attributes:
        name: Shown in test ids.
        make: A device that is not started.
        focus: Brings a reset device to where a text field has the focus, by touches alone.
        ignore_top: Share of the screen's height with a clock, left out when frames are compared.
        keep: Whether one device serves all tests, because its start is expensive.
    """

    name: str
    make: Callable[[], Device]
    focus: Callable[[Device], None]
    ignore_top: float = 0.0
    keep: bool = False


def _simulated() -> Device:
    return SimulatedDevice("contract", hazards=CALM)


def _focus_simulated(device: Device) -> None:
    assert isinstance(device, SimulatedDevice)
    notes = next(element for element in device.phone.elements() if element.name == "notes")
    device.tap(*notes.centre)
    device.tap(0.5, 0.25)


def _chromium() -> Device:
    need_chromium()
    return ChromiumDevice("contract", shared_server(), home_url=f"{site()}/")


def _focus_page(device: Device) -> None:
    device.tap(0.5, 0.3)
    device.screenshot()
    device.tap(0.5, 0.3)


def _web_phone() -> Device:
    need_chromium()
    return WebPhoneDevice("contract", shared_server(), hazards=CALM)


def _focus_web_phone(device: Device) -> None:
    assert isinstance(device, WebPhoneDevice)
    notes = next(element for element in device.phone.elements() if element.name == "notes")
    device.tap(*notes.centre)
    device.tap(0.5, 0.25)


def _android() -> Device:
    need_appium()
    need_adb()
    return StubDevice(AndroidStub().add(hazards=CALM), shared_server())


def _focus_android(device: Device) -> None:
    assert isinstance(device, StubDevice)
    assert isinstance(device.phone, StubPhone)
    notes = next(element for element in device.phone.screen.phone.elements() if element.name == "notes")
    device.tap(*notes.centre)
    device.tap(0.5, 0.25)


CASES = [
    DeviceCase("simulated", _simulated, _focus_simulated, ignore_top=1 / 16),
    DeviceCase("android", _android, _focus_android, ignore_top=1 / 16, keep=True),
    DeviceCase("chromium", _chromium, _focus_page, keep=True),
    DeviceCase("web_phone", _web_phone, _focus_web_phone, ignore_top=1 / 16, keep=True),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> DeviceCase:
    return request.param


@pytest.fixture(scope="module")
def kept(case: DeviceCase) -> Iterator[list[Device]]:
    """The device that serves all tests of its case, once there is one."""
    devices: list[Device] = []
    yield devices
    for device in devices:
        device.close()


@pytest.fixture
def closed(case: DeviceCase, kept: list[Device]) -> Iterator[Device]:
    """A device that had a session and was closed."""
    made = kept[0] if kept else case.make()
    if not kept or made.healthy():
        start(made)
        made.reset()
        made.close()
    if case.keep and not kept:
        kept.append(made)
    yield made
    made.close()


@pytest.fixture
def device(case: DeviceCase, kept: list[Device]) -> Iterator[Device]:
    """A device that is started and knows its task."""
    made = kept[0] if kept else case.make()
    if case.keep and not kept:
        kept.append(made)
    start(made, again=not made.healthy())
    yield made
    if not case.keep:
        made.close()


def start(device: Device, *, again: bool = True) -> None:
    if again:
        device.start()
    if isinstance(device, TaskAware):
        device.prepare(TASK)


def picture(frame: Frame, case: DeviceCase) -> bytes:
    image = Image.open(io.BytesIO(frame.image)).convert("RGB")
    return image.crop((0, round(case.ignore_top * image.height), image.width, image.height)).tobytes()


# ---- life


def test_info_is_known_after_the_start(device):
    info = device.info
    assert info is not None
    assert info.kind
    assert info.name
    assert info.width > 0
    assert info.height > 0


def test_a_started_device_is_healthy_and_a_closed_one_is_not(device):
    device.reset()
    assert device.healthy()
    device.close()
    assert not device.healthy()


def test_a_device_that_was_never_started_is_not_healthy_and_can_be_closed(case):
    made = case.make()
    assert not made.healthy()
    made.close()


def test_closing_twice_is_harmless(device):
    device.reset()
    device.close()
    device.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda device: device.screenshot(),
        lambda device: device.reset(),
        lambda device: device.tap(0.5, 0.5),
        lambda device: device.swipe(0.5, 0.8, 0.5, 0.2),
        lambda device: device.type_text("x"),
        lambda device: device.press(Key.HOME),
    ],
    ids=["screenshot", "reset", "tap", "swipe", "type_text", "press"],
)
def test_a_closed_device_raises_a_typed_error_that_a_new_session_mends(closed, call):
    with pytest.raises(DeviceError) as raised:
        call(closed)
    assert raised.value.recovery is not Recovery.NONE
    assert "\n" not in str(raised.value)


def test_a_closed_device_starts_again(device, case):
    first = picture(device.reset(), case)
    device.close()
    start(device)
    assert picture(device.reset(), case) == first
    assert device.healthy()


@pytest.mark.parametrize("level", [level for level in Reset if level is not Reset.HOME])
def test_a_reset_above_home_starts_a_device_that_is_closed(device, case, level):
    first = picture(device.reset(), case)
    device.close()
    if isinstance(device, TaskAware):
        device.prepare(TASK)
    assert picture(device.reset(level), case) == first
    assert device.healthy()


# ---- frames


def test_frames_have_the_size_that_info_says(device):
    for frame in (device.reset(), device.screenshot()):
        assert (frame.width, frame.height) == (device.info.width, device.info.height)
        assert Image.open(io.BytesIO(frame.image)).size == (frame.width, frame.height)


def test_frames_say_what_they_are(device):
    frame = device.reset()
    assert frame.mime == f"image/{Image.open(io.BytesIO(frame.image)).format.lower()}"


def test_frames_are_taken_after_they_are_asked_for(device):
    device.reset()
    for _ in range(3):
        asked = time.monotonic()
        assert asked <= device.screenshot().monotonic <= time.monotonic()


@pytest.mark.parametrize("level", list(Reset))
def test_every_reset_brings_back_the_first_screen(device, case, level):
    first = picture(device.reset(), case)
    case.focus(device)
    assert picture(device.screenshot(), case) != first
    assert picture(device.reset(level), case) == first


# ---- actions


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)])
def test_touches_are_taken_on_the_whole_screen_up_to_its_edges(device, x, y):
    device.reset()
    device.tap(x, y)
    device.tap(x, y, hold_ms=800)
    device.swipe(x, y, 1.0 - x, 1.0 - y)
    assert device.screenshot().image


def test_typing_without_focus_is_rejected_and_the_device_lives_on(device, case):
    before = picture(device.reset(), case)
    with pytest.raises(ActionRejected) as raised:
        device.type_text("milk")
    assert raised.value.recovery is Recovery.NONE
    assert device.healthy()
    assert picture(device.screenshot(), case) == before


def test_typed_text_is_seen(device, case):
    device.reset()
    case.focus(device)
    before = picture(device.screenshot(), case)
    device.type_text("buy milk")
    assert picture(device.screenshot(), case) != before


@pytest.mark.parametrize("text", ["", "ä é ß", "\N{SNOWMAN}", "a 'quoted' \"text\" & <tags>", "two\nlines", "x" * 3000])
def test_any_text_can_be_typed(device, case, text):
    device.reset()
    case.focus(device)
    device.type_text(text)
    assert device.screenshot().image


@pytest.mark.parametrize("key", list(Key))
def test_every_key_can_be_pressed_anywhere(device, case, key):
    device.reset()
    device.press(key)
    device.reset()
    case.focus(device)
    device.press(key)
    assert device.healthy()


def test_home_leads_back_to_the_first_screen(device, case):
    first = picture(device.reset(), case)
    case.focus(device)
    device.press(Key.HOME)
    assert picture(device.screenshot(), case) == first


def test_back_leads_out_of_an_app(device, case):
    first = picture(device.reset(), case)
    case.focus(device)
    for _ in range(4):
        device.press(Key.BACK)
    assert picture(device.screenshot(), case) == first
