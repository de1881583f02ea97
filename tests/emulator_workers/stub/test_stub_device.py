"""``StubDevice`` through real Appium: the same screens as in the process, and faults in the middle of episodes."""

import random

import pytest
from stub_clients import AdbClient, pixels

from digiq_ray.core.actions import ActionType, format_action, press, swipe, tap, type_text
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import DeviceUnreachable, Recovery, Reset, SessionLost
from emulator_workers.devices.webdriver_errors import PortClash
from emulator_workers.environment import BrokenFrame, Environment
from emulator_workers.settle import SettleSettings
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.oracle import best_action
from emulator_workers.simphone.phone import CALM, Hazards
from emulator_workers.simphone.world import Release
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.control import ControlServer, RemotePhone
from emulator_workers.stub.device import StubDevice
from emulator_workers.stub.faults import PlannedFault, StubFault, StubFaultPlan
from tests.emulator_workers.appium_testing import listens, need_adb, need_appium, shared_server

BUY = {"kind": "buy", "shop": "ebuy", "item": "red hat"}
LIVELY = Hazards(ad=0.1, lag=0.1, slow=0.3, not_responding=0.03)
WAIT, HOME, BACK = (press(kind) for kind in (ActionType.WAIT, ActionType.HOME, ActionType.BACK))
NOTHING = Task("stub/never", "buy a hat that is not sold", 12, "test", goal={**BUY, "item": "no hat"}, seed=2)


@pytest.fixture
def make():
    """Makes devices on a stub of their own; with this host's leases, because other tests open sessions too."""
    need_appium()
    need_adb()
    made, stub = [], AndroidStub()

    def make(*, plan=None, **look):
        phone = stub.add(plan=plan, **look)
        made.append(StubDevice(phone, shared_server(), call_seconds=10.0, start_seconds=20.0))
        return made[-1]

    make.stub = stub
    yield make
    for device in made:
        device.close()
    stub.stop()


def act(action) -> ActResult:
    return ActResult(format_action(action), -0.5, "v1")


def script(seed, phone):
    """Mostly what an expert does, and now and then anything else, waiting and typing without a focus included."""
    random_ = random.Random(seed)
    while True:
        others = (
            tap(random_.randrange(50) / 50, random_.randrange(50) / 50),
            swipe(0.5, 0.8, 0.5, 0.2),
            type_text("blue mug"),
            WAIT,
            BACK,
        )
        yield best_action(phone()) if random_.random() < 0.6 else random_.choice(others)


def episode(environment, task, actions, level=Reset.HOME):
    """The observed screens and how the episode ended."""
    screens = [pixels(environment.reset(task, level).screen)]
    for action in actions:
        observation, _, terminated, truncated, info = environment.step(act(action))
        screens.append(pixels(observation.screen))
        if terminated or truncated:
            return screens, info["stop_reason"]
    return screens, None


# ---- the same screens as in the process


@pytest.mark.parametrize("release", list(Release))
@pytest.mark.parametrize("scale", [1, 4])
def test_episodes_are_pixel_identical_to_those_in_the_process(make, release, scale):
    look = {"scale": scale, "release": release, "hazards": LIVELY}
    device, simulated = make(**look), SimulatedDevice(**look)
    over_appium, in_process = Environment(device, OracleJudge()), Environment(simulated, OracleJudge())
    lengths = set()
    for seed in range(4):
        task = Task(f"stub/{seed}", "buy a red hat on ebuy", 15, "test", goal=BUY, seed=seed)
        played, actions = [], script(seed, lambda: simulated.phone)

        def record(actions=actions, played=played):
            for action in actions:
                played.append(action)
                yield action

        expected = episode(in_process, task, record())
        assert episode(over_appium, task, played, Reset.SESSION if seed == 2 else Reset.HOME) == expected
        lengths.add(len(expected[0]))
    assert max(lengths) > 5
    assert make.stub.unknown == {}


def test_health_probes_and_new_sessions_let_no_time_pass(make):
    device, simulated = make(hazards=LIVELY), SimulatedDevice(hazards=LIVELY)
    for each in (device, simulated):
        each.start()
        each.prepare(NOTHING)
    assert pixels(device.reset().image) == pixels(simulated.reset().image)
    for _ in range(3):
        for each in (device, simulated):
            assert each.healthy()
            each.tap(0.2, 0.3)
            assert each.healthy()
        assert pixels(device.screenshot().image) == pixels(simulated.screenshot().image)


def test_a_settle_may_look_as_often_as_it_likes_at_one_frame(make):
    device, simulated = make(hazards=LIVELY), SimulatedDevice(hazards=LIVELY)
    for each in (device, simulated):
        each.start()
        each.prepare(NOTHING)
        each.reset()
    for _ in range(3):
        device.next_frame()
        shots = {pixels(device.screenshot().image) for _ in range(4)}
        assert shots == {pixels(simulated.screenshot().image)}


def test_the_oracle_knows_success(make):
    device = make(hazards=CALM)
    task = Task("stub/open", "open notes", 5, "test", goal={"kind": "open", "app": "notes"}, seed=3)
    environment = Environment(device, OracleJudge())
    environment.reset(task)
    phone = device.phone.screen.phone
    _, reward, terminated, _, info = environment.step(act(best_action(phone)))
    assert (reward, terminated, info["stop_reason"]) == (1.0, True, StopReason.SUCCESS)


def test_a_stub_in_another_process_is_driven_through_its_control_address(make):
    stub = AndroidStub(["remote"], hazards=CALM)
    with stub, ControlServer(stub) as control:
        device = StubDevice(RemotePhone(control.url, "remote"), shared_server())
        simulated = SimulatedDevice(hazards=CALM)
        task = Task("stub/open", "open notes", 5, "test", goal={"kind": "open", "app": "notes"}, seed=3)
        actions = [WAIT, tap(0.5, 0.5), HOME, WAIT]
        expected = episode(Environment(simulated, OracleJudge()), task, actions)
        assert episode(Environment(device, OracleJudge()), task, actions) == expected
        device.close()


# ---- faults in the middle of an episode

TRUNCATES = [
    (StubFault.UIA2_CRASH, SessionLost),
    (StubFault.STOLEN_SESSION, SessionLost),
    (StubFault.ADB_OFFLINE, (SessionLost, DeviceUnreachable)),
    (StubFault.WRONG_SIZE, SessionLost),
    (StubFault.TRUNCATED_SCREENSHOT, BrokenFrame),
]
LEVELS = {Recovery.NEW_SESSION: Reset.SESSION, Recovery.RESTORE_DEVICE: Reset.SNAPSHOT}


def planned(fault, **more):
    return StubFaultPlan(faults=(PlannedFault(fault, step=2, **more),))


@pytest.mark.parametrize(("fault", "error"), TRUNCATES, ids=[fault.value for fault, _ in TRUNCATES])
def test_a_fault_truncates_the_episode_with_a_typed_error_and_is_mended(make, fault, error):
    device = make(plan=planned(fault), hazards=CALM)
    environment = Environment(device, OracleJudge())
    environment.reset(NOTHING)
    for expected in (None, StopReason.DEVICE_ERROR):
        _, reward, terminated, _, info = environment.step(act(WAIT))
        assert (reward, terminated, info["stop_reason"]) == (0.0, False, expected)
    assert isinstance(info["device_error"], error)
    assert not environment.episode("e", "v1", "stub").stop_reason.is_terminal
    assert device.phone.injected[fault] == 1
    level = Reset.SNAPSHOT if fault is StubFault.ADB_OFFLINE else LEVELS[info["device_error"].recovery]
    simulated = Environment(SimulatedDevice(hazards=CALM), OracleJudge())
    assert episode(environment, NOTHING, [WAIT] * 3, level) == episode(simulated, NOTHING, [WAIT] * 3)


def test_a_slow_screenshot_beyond_the_deadline_is_an_unreachable_device(make):
    plan = planned(StubFault.SLOW_SCREENSHOT, seconds=30.0)
    device = StubDevice(make.stub.add(plan=plan, hazards=CALM), shared_server(), call_seconds=2.0)
    environment = Environment(device, OracleJudge())
    environment.reset(NOTHING)
    environment.step(act(WAIT))
    _, _, terminated, truncated, info = environment.step(act(WAIT))
    assert (terminated, truncated) == (False, True)
    assert isinstance(info["device_error"], DeviceUnreachable | SessionLost)
    assert episode(environment, NOTHING, [WAIT], Reset.SNAPSHOT)[1] is None
    environment.close()


def test_a_slow_screenshot_within_the_deadline_only_takes_time(make):
    environment = Environment(make(plan=planned(StubFault.SLOW_SCREENSHOT, seconds=0.5), hazards=CALM), OracleJudge())
    environment.reset(NOTHING)
    environment.step(act(WAIT))
    *_, info = environment.step(act(WAIT))
    assert info["device_error"] is None
    assert info["seconds"]["settle"] >= 0.5


def test_a_frozen_screen_is_tagged_and_the_episode_goes_on(make):
    device = make(plan=planned(StubFault.FROZEN_SCREENSHOT, shots=100), hazards=CALM)
    settle = SettleSettings(stable_seconds=0.05, poll_seconds=0.02, change_seconds=0.2, deadline_seconds=1.0)
    environment = Environment(device, OracleJudge(), settle=settle)
    environment.reset(NOTHING)
    tags = [environment.step(act(action))[4]["tag"] for action in (tap(0.2, 0.3), HOME)]
    assert tags[-1] == "frozen"
    assert device.phone.injected[StubFault.FROZEN_SCREENSHOT] == 1


def test_an_agent_can_answer_the_dialog_of_an_app_that_does_not_respond(make):
    device = make(plan=planned(StubFault.NOT_RESPONDING), hazards=CALM)
    environment = Environment(device, OracleJudge())
    environment.reset(NOTHING)
    for _ in range(2):
        *_, info = environment.step(act(WAIT))
    phone = device.phone.screen.phone
    assert phone.state.not_responding
    assert info["device_error"] is None
    environment.step(act(best_action(phone)))
    assert not phone.state.not_responding


def test_a_port_clash_costs_one_start(make):
    device = make(hazards=CALM)
    device.phone.inject(StubFault.PORT_CLASH)
    with pytest.raises(PortClash):
        device.start()
    device.start()
    device.prepare(NOTHING)
    assert device.reset().image


def test_a_phone_that_went_offline_is_restored_after_a_failed_start(make):
    device = make(hazards=CALM)
    device.start()
    device.phone.inject(StubFault.ADB_OFFLINE)
    with pytest.raises(DeviceUnreachable, match="is offline"):
        device.start()
    device.start()
    device.prepare(NOTHING)
    assert device.reset().image


# ---- life


def test_a_closed_device_leaves_no_port_open(make):
    device = make(hazards=CALM)
    device.start()
    adb = AdbClient(make.stub.adb_port)
    forwarded = [int(line.split()[1].removeprefix("tcp:")) for line in adb.host("host:list-forward").splitlines()]
    assert len(forwarded) == 2
    assert all(map(listens, [adb.port, *forwarded]))
    device.close()
    device.close()
    assert not any(map(listens, [adb.port, *forwarded]))


def test_a_device_without_a_task_asks_for_one(make):
    device = make(hazards=CALM)
    device.start()
    for call in (device.reset, device.screenshot):
        with pytest.raises(SessionLost, match="call prepare"):
            call()
