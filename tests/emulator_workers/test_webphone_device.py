"""The simulated phone in Chromium behaves as in the process: the same pixels, the same states, the same refusals."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from digiq_ray.core.actions import Action, ActionType
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import ActionRejected, Device, Frame, Key, SessionLost
from emulator_workers.environment import Environment
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.oracle import BACK, ENTER, HOME, SCROLL_DOWN, touch
from emulator_workers.simphone.phone import CALM, Hazards
from emulator_workers.webphone.device import WebPhoneDevice
from emulator_workers.webphone.server import WebPhoneServer
from tests.emulator_workers.appium_testing import need_chromium, shared_server

KEYS = {ActionType.BACK: Key.BACK, ActionType.HOME: Key.HOME, ActionType.ENTER: Key.ENTER}
UNRULY = Hazards(0.15, 0.15, 0.2, 0.05)
GOALS = (
    {"kind": "buy", "shop": "ebuy", "item": "red mug"},
    {"kind": "note", "note": "buy milk"},
    {"kind": "alarm", "hour": "7"},
)


@pytest.fixture(scope="module")
def web_phone():
    need_chromium()
    device = WebPhoneDevice("web", shared_server(), hazards=UNRULY)
    device.start()
    yield device
    device.close()


def act(device: Device, action: Action) -> bool:
    """Carries out an action; whether the device took it."""
    try:
        match action.type:
            case ActionType.TAP:
                device.tap(action.x, action.y)
            case ActionType.SWIPE:
                device.swipe(action.x, action.y, action.x2, action.y2)
            case ActionType.TYPE:
                device.type_text(action.text)
            case _:
                device.press(KEYS[action.type])
    except ActionRejected:
        return False
    return True


def pixels(frame: Frame) -> bytes:
    return Image.open(io.BytesIO(frame.image)).convert("RGB").tobytes()


def draw(device: SimulatedDevice, rng: random.Random) -> Action:
    """Mostly a touch on something, else anything."""
    elements = device.phone.elements()
    if elements and rng.random() < 0.6:
        return touch(rng.choice(elements))
    typed = Action(ActionType.TYPE, text=rng.choice(("red mug", "buy milk")))
    anywhere = Action(ActionType.TAP, x=rng.random(), y=rng.random())
    return rng.choice((typed, anywhere, SCROLL_DOWN, BACK, HOME, ENTER))


@pytest.mark.parametrize("seed", range(4))
def test_the_same_actions_lead_to_the_same_pixels_states_and_refusals(web_phone, seed):
    rng, local = random.Random(seed), SimulatedDevice(hazards=UNRULY)
    task = Task(f"web/{seed}", "a goal", 20, "train", goal=GOALS[seed % len(GOALS)], seed=seed)
    local.start()
    for device in (web_phone, local):
        device.prepare(task)
    assert pixels(web_phone.reset()) == pixels(local.reset())
    for _ in range(25):
        action = draw(local, rng)
        assert act(web_phone, action) == act(local, action), action
        assert pixels(web_phone.screenshot()) == pixels(local.screenshot()), action
        assert web_phone.phone.state == local.phone.state, action
        assert web_phone.succeeded() == local.succeeded()


def test_several_screenshots_can_be_taken_of_one_moment(web_phone):
    web_phone.prepare(Task("web/pace", "a goal", 20, "train", goal=GOALS[0], seed=1))
    web_phone.reset()
    before = web_phone.phone.state.frame
    web_phone.next_frame()
    first, second = web_phone.screenshot(), web_phone.screenshot()
    assert web_phone.phone.state.frame == before + 1
    assert pixels(first) == pixels(second)
    web_phone.reset()
    assert pixels(web_phone.screenshot()) != pixels(web_phone.screenshot())


def test_a_screen_can_be_larger_pixel_by_pixel():
    need_chromium()
    task = Task("web/large", "a goal", 20, "train", goal=GOALS[0], seed=1)
    web, local = (
        WebPhoneDevice("web", shared_server(), scale=3, hazards=CALM),
        SimulatedDevice(scale=3, hazards=CALM),
    )
    try:
        for device in (web, local):
            device.start()
            device.prepare(task)
        assert web.info.width == local.info.width == 288
        assert pixels(web.reset()) == pixels(local.reset())
    finally:
        web.close()


def test_an_environment_runs_a_whole_episode_on_it(web_phone):
    task = Task("web/open", "open the notes app", 5, "test", goal={"kind": "open", "app": "notes"}, seed=3)
    web_phone._hazards = CALM
    environment = Environment(web_phone, OracleJudge())
    try:
        environment._started = True
        environment.reset(task)
        notes = touch(next(element for element in web_phone.phone.elements() if element.name == "notes"))
        text = f"tap {notes.x:.2f} {notes.y:.2f}"
        _, reward, terminated, _, info = environment.step(ActResult(text, 0.0, "v"))
        assert info["parse_error"] is None
        assert (reward, terminated) == (1.0, True)
    finally:
        web_phone._hazards = UNRULY


def test_a_phone_without_a_task_says_so(web_phone):
    web_phone._task = None
    with pytest.raises(SessionLost, match="no task; call prepare"):
        web_phone.reset()


def test_a_failed_start_closes_the_page():
    pages = WebPhoneServer()
    device = WebPhoneDevice("web", shared_server(), pages=pages, flags=("--no-such",), start_seconds=0.01)
    need_chromium()
    with pytest.raises(Exception, match="web"):
        device.start()
    assert pages._server is None
    assert not device.healthy()
