import warnings

import numpy as np
import pytest
from fake_phones import FakePhone, page_task
from gymnasium.utils.env_checker import check_env

from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import InputError
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.environment import Environment
from emulator_workers.faults import Fault, FaultKind, FaultPlan, FaultyDevice
from emulator_workers.gym import PhoneEnv
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.tasks import build
from emulator_workers.simphone.world import HEIGHT, WIDTH

NEXT = "tap 0.90 0.50"
TASKS = [page_task(2), page_task(3)]


def env_on(device, tasks=TASKS, **options) -> PhoneEnv:
    return PhoneEnv(Environment(device, OracleJudge()), tasks, size=(8, 16), **options)


def test_gymnasium_finds_nothing_to_complain_about():
    environment = Environment(SimulatedDevice(), OracleJudge())
    env = PhoneEnv(environment, build("general", "train", 20).tasks, size=(WIDTH, HEIGHT), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)  # that check is for environments that are registered by name


def test_an_episode_goes_as_the_environment_says():
    env = env_on(FakePhone())
    first, info = env.reset(options={"task": 0})
    assert (first["task"], first["history"], info) == ("go to page 2", (), {"task_id": "pages/2"})
    seen, reward, terminated, truncated, _ = env.step(NEXT)
    assert (seen["history"], reward, terminated, truncated) == ((NEXT,), 0.0, False, False)
    _, reward, terminated, truncated, info = env.step(NEXT)
    assert (reward, terminated, truncated, info["stop_reason"]) == (1.0, True, False, StopReason.SUCCESS)


def test_the_screen_is_an_array_of_the_size_that_was_asked_for():
    env = PhoneEnv(Environment(FakePhone(), OracleJudge()), TASKS, size=(4, 6), render_mode="rgb_array")
    seen, _ = env.reset()
    assert (seen["screen"].shape, seen["screen"].dtype) == ((6, 4, 3), np.uint8)
    assert np.array_equal(env.render(), seen["screen"])


def test_the_same_seed_takes_the_same_task():
    env = env_on(FakePhone(), [page_task(n) for n in range(2, 50)])
    taken = [env.reset(seed=seed)[1]["task_id"] for seed in (1, 2, 1, 2)]
    assert taken[:2] == taken[2:]
    assert len({env.reset()[1]["task_id"] for _ in range(10)}) > 3


def test_a_failing_device_truncates_and_the_next_reset_mends_it():
    device = FaultyDevice(FakePhone(), FaultPlan(faults=(Fault(FaultKind.CRASH, step=1),)))
    env = env_on(device)
    env.reset()
    _, reward, terminated, truncated, info = env.step(NEXT)
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, StopReason.DEVICE_ERROR)
    seen, _ = env.reset()
    assert np.array_equal(seen["screen"][0, 0], np.array([0, 40, 90]))


def test_a_device_that_no_reset_mends_is_an_error():
    class Dead(FakePhone):
        def reset(self, level=None):
            super().reset(level)
            raise DeviceUnreachable("no answer")

    phone = Dead()
    with pytest.raises(DeviceUnreachable):
        env_on(phone).reset()
    assert [call for call in phone.calls if call.startswith("reset")] == [
        *("reset HOME", "reset SESSION", "reset SNAPSHOT", "reset REBOOT")
    ]


def test_what_is_no_ascii_is_shown_as_question_marks():
    task = page_task(2, name="p")
    object.__setattr__(task, "text", "öffne Seite 2")
    seen, _ = env_on(FakePhone(), [task]).reset()
    assert seen["task"] == "?ffne Seite 2"


def test_closing_gives_the_device_back():
    phone = FakePhone()
    env = env_on(phone)
    env.reset()
    env.close()
    assert phone.calls[-1] == "close"


@pytest.mark.parametrize("number", [-1, 2])
def test_a_task_that_is_not_there_is_refused(number):
    with pytest.raises(InputError, match="there is no task"):
        env_on(FakePhone()).reset(options={"task": number})


def test_an_environment_without_tasks_is_refused():
    with pytest.raises(InputError, match="at least one task"):
        env_on(FakePhone(), [])
