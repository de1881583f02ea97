import dataclasses
import itertools
import time

import pytest
from fake_phones import FakePhone, MutePhone, encode, page_task
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq_ray.core.actions import Dialect
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.policies import ActResult
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import DeviceUnreachable, Frame, Reset, SessionLost
from emulator_workers.environment import NO_SCREEN, BrokenFrame, Environment
from emulator_workers.phases import Phase
from emulator_workers.settle import SettleSettings

NEXT, BACK = "tap 0.90 0.50", "tap 0.10 0.50"


def act(text: str) -> ActResult:
    return ActResult(text, -0.5, "v1")


def play(environment: Environment, task, *texts: str):
    environment.reset(task)
    for text in texts:
        outcome = environment.step(act(text))
    return outcome, environment.episode("e", "v1", environment.device_name)


@pytest.fixture
def phone():
    return FakePhone()


@pytest.fixture
def environment(phone):
    return Environment(phone, OracleJudge())


def test_success_is_terminal_with_reward_one(environment):
    (_, reward, terminated, truncated, info), episode = play(environment, page_task(2), NEXT, NEXT)
    assert (reward, terminated, truncated, info["stop_reason"]) == (1.0, True, False, StopReason.SUCCESS)
    assert episode.success
    assert [step.reward for step in episode.steps] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("text", ["complete", "impossible"])
def test_agent_stop_is_terminal_with_reward_zero(environment, text):
    (_, reward, terminated, truncated, _), episode = play(environment, page_task(5), NEXT, text)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert episode.stop_reason is StopReason.AGENT_STOP


def test_stopping_at_the_goal_is_still_judged(environment):
    (_, reward, _, _, _), episode = play(environment, page_task(0), "complete")
    assert (reward, episode.stop_reason) == (1.0, StopReason.SUCCESS)


def test_horizon_truncates(environment):
    (_, reward, terminated, truncated, _), episode = play(environment, page_task(5, horizon=2), NEXT, NEXT)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert episode.stop_reason is StopReason.TIME_LIMIT
    assert not episode.is_terminal


def test_success_at_the_horizon_is_a_success(environment):
    _, episode = play(environment, page_task(2, horizon=2), NEXT, NEXT)
    assert episode.stop_reason is StopReason.SUCCESS


def test_agent_stop_at_the_horizon_is_an_agent_stop(environment):
    _, episode = play(environment, page_task(5, horizon=2), NEXT, "complete")
    assert episode.stop_reason is StopReason.AGENT_STOP


def test_an_episode_has_one_row_more_than_actions_and_ends_with_the_final_screen(environment):
    _, episode = play(environment, page_task(2), NEXT, NEXT)
    assert [step.screen for step in episode.steps] == [encode(0), encode(1), encode(2)]
    last = episode.steps[-1]
    assert (last.action_text, last.action, last.reward, last.behaviour_logprob) == (None, None, 0.0, None)


def test_an_episode_records_what_the_policy_said(environment):
    _, episode = play(environment, page_task(1), NEXT)
    step = episode.steps[0]
    assert (step.action_text, step.behaviour_logprob, episode.policy_version) == (NEXT, -0.5, "v1")
    assert (episode.device, episode.judge, episode.task.task_id) == ("fake", "oracle", "pages/1")


def test_wall_times_rise_through_an_episode(environment):
    began = time.time()
    _, episode = play(environment, page_task(3), NEXT, NEXT, NEXT)
    times = [began, *itertools.chain.from_iterable((s.started_at, s.ended_at) for s in episode.steps), time.time()]
    assert times == sorted(times)


def test_the_observation_holds_screen_goal_and_history(environment):
    first = environment.reset(page_task(3))
    second, *_ = environment.step(act(NEXT))
    assert (first.screen, first.task, first.history) == (encode(0), "go to page 3", ())
    assert (second.screen, second.history) == (encode(1), (NEXT,))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("tap 0.30 0.40", "tap 0.3 0.4 50"),
        ("long_press 0.30 0.40", "tap 0.3 0.4 800"),
        ("swipe 0.10 0.20 0.30 0.40", "swipe 0.1 0.2 0.3 0.4"),
        ("type red mug", "type red mug"),
        ("type", "type "),
        ("back", "press back"),
        ("home", "press home"),
        ("enter", "press enter"),
    ],
)
def test_each_action_reaches_the_device_once(environment, phone, text, call):
    environment.reset(page_task(5))
    phone.calls.clear()
    environment.step(act(text))
    assert phone.calls == [call, "screenshot"]


@pytest.mark.parametrize("text", ["wait", "complete", "impossible", "nonsense"])
def test_waiting_stopping_and_nonsense_only_take_the_next_frame(environment, phone, text):
    environment.reset(page_task(5))
    phone.calls.clear()
    environment.step(act(text))
    assert phone.calls == ["screenshot"]


def test_a_rejected_action_has_no_effect_and_the_episode_goes_on(environment):
    environment.reset(page_task(5))
    observation, reward, terminated, truncated, info = environment.step(act("type hello"))
    assert (observation.screen, reward, terminated, truncated) == (encode(0), 0.0, False, False)
    assert info["rejected"] == "nothing has the focus"


def test_an_unparsable_text_idles_and_is_recorded(environment):
    (_, _, terminated, truncated, info), episode = play(environment, page_task(5, horizon=1), "dance")
    assert (terminated, truncated) == (False, True)
    assert info["parse_error"] == "unknown action 'dance'"
    assert (episode.steps[0].action, episode.steps[0].action_text) == (None, "dance")
    assert episode.steps[0].parse_error == "unknown action 'dance'"


def test_an_unparsable_text_stays_in_the_history(environment):
    environment.reset(page_task(5))
    observation, *_ = environment.step(act("dance"))
    assert observation.history == ("dance",)


def test_an_unparsable_text_may_end_the_episode(phone):
    environment = Environment(phone, OracleJudge(), on_parse_error="end")
    (_, _, terminated, _, _), episode = play(environment, page_task(5), "dance")
    assert terminated
    assert (episode.stop_reason, episode.steps[0].parse_error) == (StopReason.AGENT_STOP, "unknown action 'dance'")


def test_the_dialect_decides_how_texts_are_read(phone):
    environment = Environment(phone, OracleJudge(), dialect=Dialect.AUTOUI)
    environment.reset(page_task(5))
    phone.calls.clear()
    text = '"action_type": "PRESS_HOME", "touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]", "typed_text": ""'
    environment.step(act(text))
    assert phone.calls == ["press home", "screenshot"]


@pytest.mark.parametrize("method", ["tap", "screenshot", "succeeded"])
def test_a_device_error_truncates_at_the_last_good_screen(environment, phone, monkeypatch, method):
    environment.reset(page_task(5))
    environment.step(act(NEXT))

    def fail(*args, **kwargs):
        raise SessionLost("gone")

    monkeypatch.setattr(phone, method, fail)
    observation, reward, terminated, truncated, info = environment.step(act(NEXT))
    episode = environment.episode("e", "v1", "fake")
    assert (observation.screen, reward, terminated, truncated) == (encode(1), 0.0, False, True)
    assert isinstance(info["device_error"], SessionLost)
    assert (episode.stop_reason, episode.is_terminal) == (StopReason.DEVICE_ERROR, False)


def test_the_action_whose_outcome_was_not_seen_is_left_out(environment, phone, monkeypatch):
    environment.reset(page_task(5))
    environment.step(act(NEXT))
    monkeypatch.setattr(phone, "screenshot", lambda: Frame(b"", "image/png", 8, 16, time.monotonic()))
    environment.step(act(NEXT))
    episode = environment.episode("e", "v1", "fake")
    assert [(s.screen, s.action_text) for s in episode.steps] == [(encode(0), NEXT), (encode(1), None)]


@pytest.mark.parametrize("method", ["start", "prepare", "reset"])
def test_a_device_that_fails_in_reset_ends_the_episode_without_an_action(environment, phone, monkeypatch, method):
    def fail(*args):
        raise DeviceUnreachable("no answer")

    monkeypatch.setattr(phone, method, fail)
    with pytest.raises(DeviceUnreachable):
        environment.reset(page_task(5))
    episode = environment.episode("e", "v1", "fake")
    assert (episode.stop_reason, episode.is_terminal) == (StopReason.DEVICE_ERROR, False)
    assert [(s.screen, s.action_text) for s in episode.steps] == [(NO_SCREEN, None)]


def test_a_frame_from_before_the_action_is_a_device_error(environment, phone, monkeypatch):
    environment.reset(page_task(5))
    old = phone.screenshot()
    monkeypatch.setattr(phone, "screenshot", lambda: old)
    *_, info = environment.step(act(NEXT))
    assert isinstance(info["device_error"], BrokenFrame)


@settings(max_examples=60, deadline=None)
@given(fmt=st.sampled_from(["PNG", "JPEG"]), keep=st.floats(0, 0.9))
def test_a_truncated_image_is_a_device_error(fmt, keep):
    phone = FakePhone()
    environment = Environment(phone, OracleJudge())
    environment.reset(page_task(5))
    whole = encode(3, fmt)
    phone.screenshot = lambda: Frame(whole[: int(keep * len(whole))], "image/*", 8, 16, time.monotonic())
    *_, info = environment.step(act(NEXT))
    assert isinstance(info["device_error"], BrokenFrame)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_a_whole_image_is_taken_as_it_is(environment, phone, monkeypatch, fmt):
    environment.reset(page_task(5))
    monkeypatch.setattr(phone, "screenshot", lambda: Frame(encode(7, fmt), "image/*", 8, 16, time.monotonic()))
    observation, *_, info = environment.step(act(NEXT))
    assert (observation.screen, info["device_error"]) == (encode(7, fmt), None)


def test_the_device_is_started_once_and_prepared_before_each_reset(environment, phone):
    environment.reset(page_task(1))
    environment.reset(page_task(2))
    assert phone.calls == ["start", "prepare", "reset HOME", "prepare", "reset HOME"]


def test_close_makes_the_next_reset_start_the_device_again(environment, phone):
    environment.reset(page_task(1))
    environment.close()
    environment.reset(page_task(1), Reset.SNAPSHOT)
    assert phone.calls[3:] == ["close", "start", "prepare", "reset SNAPSHOT"]


def test_a_reset_forgets_the_episode_before(environment):
    play(environment, page_task(1), NEXT)
    _, episode = play(environment, page_task(2), NEXT, NEXT)
    assert len(episode.steps) == 3


def test_a_judge_that_cannot_judge_the_device_is_an_input_error():
    environment = Environment(MutePhone(), OracleJudge())
    environment.reset(page_task(1))
    with pytest.raises(InputError, match="device 'fake' cannot tell"):
        environment.step(act(NEXT))


def test_stepping_an_ended_episode_is_refused(environment):
    play(environment, page_task(1), NEXT)
    with pytest.raises(DigiQError, match=r"call reset\(task\) first"):
        environment.step(act(NEXT))


def test_a_running_episode_cannot_be_taken(environment):
    environment.reset(page_task(1))
    with pytest.raises(DigiQError, match="that has ended"):
        environment.episode("e", "v1", "fake")


def test_a_horizon_without_actions_is_refused(environment):
    with pytest.raises(InputError, match="horizon 0"):
        environment.reset(page_task(1, horizon=0))


# ---- settling, phases, and being given up from elsewhere


class AnimatedPhone(FakePhone):
    """A phone that shows a change of pages in steps: its first ``frames`` screens after a touch are in between."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self._frames, self._left = frames, 0

    def tap(self, x, y, hold_ms=50):
        super().tap(x, y, hold_ms)
        self._left = self._frames

    def screenshot(self):
        frame = super().screenshot()
        if self._left <= 0:
            return frame
        self._left -= 1
        return dataclasses.replace(frame, image=encode(100 + 20 * self._left))


QUICK = SettleSettings(stable_seconds=0.02, poll_seconds=0.005, deadline_seconds=0.3, change_seconds=0.05)


def test_a_settled_screen_is_seen_not_the_one_in_between():
    environment = Environment(AnimatedPhone(3), OracleJudge(), settle=QUICK)
    environment.reset(page_task(50))
    observation, *_, info = environment.step(act("tap 0.10 0.50"))
    assert observation.screen == encode(-1)
    assert info["tag"] is None


def test_a_screen_that_never_settles_is_tagged_and_counted():
    environment = Environment(AnimatedPhone(10**6), OracleJudge(), settle=QUICK)
    environment.reset(page_task(50))
    *_, info = environment.step(act(NEXT))
    assert (info["tag"], environment.tags) == ("unsettled", {"unsettled": 1})
    *_, info = environment.step(act(NEXT))
    assert (info["tag"], environment.tags) == ("unsettled", {"unsettled": 2})


def test_an_action_without_any_effect_is_tagged_frozen():
    environment = Environment(FakePhone(), OracleJudge(), settle=QUICK)
    environment.reset(page_task(50))
    *_, info = environment.step(act("swipe 0.50 0.80 0.50 0.20"))
    assert info["tag"] == "frozen"


def test_each_screen_of_an_episode_keeps_how_the_wait_for_it_ended():
    environment = Environment(AnimatedPhone(3), OracleJudge(), settle=QUICK)
    environment.reset(page_task(1))
    for text in ("swipe 0.50 0.80 0.50 0.20", "wait", "swipe 0.50 0.80 0.50 0.20", NEXT):
        environment.step(act(text))
    tags = [step.settle_tag for step in environment.episode("e", "v1", "fake").steps]
    assert tags == [None, "frozen", None, "frozen", None]


def test_the_first_and_the_last_screen_keep_their_tags_and_a_screen_that_was_not_seen_has_none():
    class Restless(FakePhone):
        def _frame(self):
            return dataclasses.replace(super()._frame(), image=encode(100 + 40 * (next(self.shades) % 2)))

        def screenshot(self):
            if self.broken:
                raise SessionLost("gone")
            return super().screenshot()

        shades, broken = itertools.count(), False

    phone = Restless()
    environment = Environment(phone, OracleJudge(), settle=QUICK)
    environment.reset(page_task(1))
    environment.step(act("wait"))
    phone.broken = True
    environment.step(act("wait"))
    episode = environment.episode("e", "v1", "fake")
    assert [step.settle_tag for step in episode.steps] == ["unsettled", "unsettled"]
    with pytest.raises(SessionLost):
        environment.reset(page_task(1))
    assert [step.settle_tag for step in environment.episode("e", "v1", "fake").steps] == [None]


@pytest.mark.parametrize("text", ["wait", "complete", "nonsense", "type hello"])
def test_no_change_is_expected_of_waiting_stopping_nonsense_and_rejected_actions(text):
    environment = Environment(FakePhone(), OracleJudge(), settle=QUICK)
    environment.reset(page_task(50))
    *_, info = environment.step(act(text))
    assert info["tag"] is None


def test_a_device_that_fails_while_settling_truncates():
    class Failing(AnimatedPhone):
        def screenshot(self):
            if self._left == 1:
                raise SessionLost("gone")
            return super().screenshot()

    environment = Environment(Failing(3), OracleJudge(), settle=QUICK)
    environment.reset(page_task(50))
    *_, info = environment.step(act(NEXT))
    assert isinstance(info["device_error"], SessionLost)
    assert environment.episode("e", "v1", "fake").stop_reason is StopReason.DEVICE_ERROR


def test_each_phase_of_a_step_is_timed(environment):
    environment.reset(page_task(5))
    *_, info = environment.step(act(NEXT))
    assert set(info["seconds"]) == {"act", "settle", "judge"}
    assert {phase for phase, seconds in environment.watch.seconds.items() if seconds} == {
        *(Phase.BOOT, Phase.RESET, Phase.ACT, Phase.SETTLE, Phase.JUDGE)
    }


def test_a_recovery_is_booked_as_one(environment):
    environment.reset(page_task(5), Reset.SNAPSHOT, recovering=True)
    assert environment.watch.seconds[Phase.RECOVER] > 0
    assert environment.watch.seconds[Phase.BOOT] == environment.watch.seconds[Phase.RESET] == 0


def test_an_episode_given_up_while_a_call_hangs_is_truncated_and_stays_so(environment, phone, monkeypatch):
    environment.reset(page_task(5))
    environment.step(act(NEXT))
    screenshot = phone.screenshot

    def given_up_meanwhile():
        environment.give_up()
        return screenshot()

    monkeypatch.setattr(phone, "screenshot", given_up_meanwhile)
    observation, _, terminated, truncated, info = environment.step(act(NEXT))
    episode = environment.episode("e", "v1", "fake")
    assert (observation.screen, terminated, truncated, info["stop_reason"]) == (
        *(encode(1), False, True, StopReason.DEVICE_ERROR),
    )
    assert [step.screen for step in episode.steps] == [encode(0), encode(1)]


@pytest.mark.parametrize(
    ("setting", "text", "wanted"), [("resample", "dance", True), ("resample", NEXT, False), ("idle", "dance", False)]
)
def test_another_action_is_wanted_for_nonsense_if_the_setting_says_so(phone, setting, text, wanted):
    assert Environment(phone, OracleJudge(), setting).wants_another(text) is wanted


def test_what_was_made_for_the_device_ends_after_it(phone):
    environment = Environment(phone, OracleJudge(), on_close=lambda: phone.calls.append("emulator ends"))
    environment.reset(page_task(1))
    environment.close()
    assert phone.calls[-2:] == ["close", "emulator ends"]


def test_a_device_that_a_failed_reset_has_closed_is_started_again(environment, phone, monkeypatch):
    environment.reset(page_task(1))

    def fail(level):
        phone.close()
        raise DeviceUnreachable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(phone, "reset", fail)
        with pytest.raises(DeviceUnreachable):
            environment.reset(page_task(1), Reset.SESSION)
    environment.reset(page_task(1), Reset.SNAPSHOT)
    assert phone.calls[-4:] == ["close", "start", "prepare", "reset SNAPSHOT"]
