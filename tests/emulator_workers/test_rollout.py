import dataclasses

import pytest
from fake_phones import DeadPhone, DicePolicy, FakePhone, ScriptedPolicy, make_fake_environment, page_task
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.rng import seed_of
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import DeviceBroken
from emulator_workers.environment import Environment
from emulator_workers.faults import Fault, FaultKind, FaultPlan, FaultyDevice
from emulator_workers.jobs import make_jobs
from emulator_workers.rollout import rollout
from emulator_workers.stats import RolloutStats

NEXT = "tap 0.90 0.50"


def collect(jobs, policy, make_environment=make_fake_environment, *, slots=3, **options):
    episodes: list[Episode] = []
    stats = rollout(
        jobs,
        policy=policy,
        make_environment=make_environment,
        slots=slots,
        on_episode=lambda episode, job: episodes.append(episode),
        **options,
    )
    return episodes, stats


def without_times(episodes) -> dict[str, Episode]:
    """Episodes by id, with the wall times taken out."""
    return {
        e.episode_id: dataclasses.replace(
            e, steps=[dataclasses.replace(s, started_at=0.0, ended_at=0.0) for s in e.steps]
        )
        for e in episodes
    }


def jobs_of(count: int, **options):
    return make_jobs([page_task(n % 4 + 1, name=f"t/{n}") for n in range(count)], run="r", **options)


def environments(*phones):
    """A factory that hands out these phones in turn."""
    left = iter(phones)
    return lambda: Environment(next(left), OracleJudge())


def faulty(*faults: Fault) -> FaultyDevice:
    return FaultyDevice(FakePhone(), FaultPlan(faults=faults, seconds=0.01))


def test_every_job_becomes_one_episode():
    jobs = jobs_of(20)
    episodes, stats = collect(jobs, DicePolicy())
    assert sorted(e.episode_id for e in episodes) == sorted(job.episode_id for job in jobs)
    assert (stats.episodes, stats.steps) == (20, sum(len(e.steps) - 1 for e in episodes))


def test_episodes_do_not_depend_on_the_number_of_slots():
    alone, _ = collect(jobs_of(25), DicePolicy(), slots=1)
    together, _ = collect(jobs_of(25), DicePolicy(), slots=7)
    assert without_times(alone) == without_times(together)
    assert len({tuple(s.action_text for s in e.steps) for e in alone}) > 10


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), slots=st.integers(2, 9))
def test_episodes_do_not_depend_on_faults_that_retries_mend(seed, slots):
    seeds = iter(range(seed, seed + 10_000))

    def make_environment():
        rates = dict.fromkeys((FaultKind.CRASH, FaultKind.UNREACHABLE), 0.01)
        rates |= dict.fromkeys((FaultKind.WRONG_FRAME, FaultKind.BROKEN_IMAGE), 0.01)
        return Environment(FaultyDevice(FakePhone(), FaultPlan(rates=rates, seed=next(seeds))), OracleJudge())

    calm, _ = collect(jobs_of(12), DicePolicy(), slots=1)
    stormy, _ = collect(jobs_of(12), DicePolicy(), make_environment, slots=slots, device_retries=50)
    assert without_times(calm) == without_times(stormy)


def test_a_free_slot_takes_the_next_job_at_once():
    long, short = page_task(99, horizon=9, name="long"), page_task(1, name="short")
    jobs = make_jobs([long, *(dataclasses.replace(short, task_id=f"s/{n}") for n in range(9))], run="r")
    policy = ScriptedPolicy(*[NEXT] * 9)
    collect(jobs, policy, slots=2)
    assert policy.batches == [2] * 9


def test_live_slots_share_one_batch():
    policy = DicePolicy()
    collect(jobs_of(12), policy, slots=4)
    assert policy.batches[0] == 4
    assert max(policy.batches) == 4


def test_never_more_environments_than_slots_or_jobs():
    made = []

    def make_environment():
        made.append(make_fake_environment())
        return made[-1]

    collect(jobs_of(12), DicePolicy(), make_environment, slots=3)
    collect(jobs_of(2), DicePolicy(), make_environment, slots=50)
    assert len(made) == 5


def test_the_seed_of_a_step_is_that_of_its_job_and_number():
    job = make_jobs([page_task(3)], run="r", seed=7)[0]
    policy = ScriptedPolicy(NEXT, NEXT, NEXT)
    collect([job], policy)
    assert [r.seed for r in policy.requests] == [seed_of(job.seed, t) for t in range(3)]
    assert [len(r.history) for r in policy.requests] == [0, 1, 2]


def test_jobs_depend_on_their_arguments_alone():
    tasks = [page_task(1), page_task(2)]
    jobs = make_jobs(tasks, run="r", attempts=3, seed=4)
    assert jobs == make_jobs(tasks, run="r", attempts=3, seed=4)
    assert len({job.episode_id for job in jobs}) == len({job.seed for job in jobs}) == 6
    assert {job.seed for job in jobs}.isdisjoint(job.seed for job in make_jobs(tasks, run="r", attempts=3, seed=5))


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.UNREACHABLE, FaultKind.HANG])
@pytest.mark.parametrize("step", [0, 2])
def test_a_failed_job_is_begun_again_on_a_mended_device(kind, step):
    jobs = make_jobs([page_task(3)], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(*[NEXT] * 3), environments(faulty(Fault(kind, step=step))), slots=1)
    assert [e.stop_reason for e in episodes] == [StopReason.SUCCESS]
    assert len(episodes[0].steps) == 4
    assert (stats.retries, sum(stats.device_errors.values()), stats.resets) == (1, 1, 2)


@pytest.mark.parametrize("kind", [FaultKind.WRONG_FRAME, FaultKind.BROKEN_IMAGE])
def test_a_bad_frame_fails_its_own_slot_only(kind):
    phones = [faulty(Fault(kind, step=1)), FakePhone()]
    jobs = make_jobs([page_task(2), page_task(3)], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(*[NEXT] * 3), environments(*phones), slots=2)
    assert stats.device_errors == {"BrokenFrame": 1}
    assert all(e.success for e in episodes)
    assert {call for call in phones[1].calls if call.startswith("reset")} == {"reset HOME"}


def test_a_device_error_is_reported_when_no_try_is_left():
    phones = [faulty(Fault(FaultKind.CRASH, step=1), Fault(FaultKind.CRASH, step=2)), FakePhone()]
    jobs = make_jobs([page_task(3)], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(*[NEXT] * 3), environments(*phones), slots=1, device_retries=1)
    assert [e.stop_reason for e in episodes] == [StopReason.DEVICE_ERROR]
    assert [s.action_text for s in episodes[0].steps] == [NEXT, None]
    assert (stats.device_errors, stats.retries, stats.episodes) == ({"SessionLost": 2}, 1, 1)


def test_the_slot_goes_on_after_a_reported_device_error():
    jobs = make_jobs([page_task(1, name="a"), page_task(1, name="b")], run="r")
    phone = faulty(Fault(FaultKind.CRASH, step=1))
    episodes, _ = collect(jobs, ScriptedPolicy(NEXT), environments(phone), slots=1, device_retries=0)
    assert [e.stop_reason for e in episodes] == [StopReason.DEVICE_ERROR, StopReason.SUCCESS]


def test_a_lost_session_gets_a_new_one_an_unreachable_device_its_snapshot():
    lost, unreachable = FakePhone(), FakePhone()
    for phone, kind in ((lost, FaultKind.CRASH), (unreachable, FaultKind.UNREACHABLE)):
        device = FaultyDevice(phone, FaultPlan(faults=(Fault(kind, step=1),)))
        collect(make_jobs([page_task(1)], run="r"), ScriptedPolicy(NEXT), environments(device), slots=1)
    assert [call for call in lost.calls if call.startswith("reset")] == ["reset HOME", "reset SESSION"]
    assert [call for call in unreachable.calls if call.startswith("reset")] == ["reset HOME", "reset SNAPSHOT"]


def test_recovery_climbs_to_another_device_while_no_episode_is_finished():
    phones = [faulty(*(Fault(FaultKind.CRASH, step=n) for n in (1, 2, 3, 4))), FakePhone()]
    jobs = make_jobs([page_task(5)], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(*[NEXT] * 5), environments(*phones), slots=1, device_retries=4)
    assert episodes[0].success
    assert stats.recoveries == {"new_session": 1, "snapshot": 1, "reboot": 1, "replace": 1}
    assert stats.quarantined == ["fake"]
    assert phones[1].calls.count("reset HOME") == 1


def test_a_failed_job_goes_to_another_slot():
    phones = [faulty(*(Fault(FaultKind.CRASH, step=n) for n in (1, 2, 3))), FakePhone()]
    jobs = make_jobs([page_task(2, name="a"), page_task(2, name="b")], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(*[NEXT] * 2), environments(*phones), slots=2, device_retries=1)
    assert all(episode.success for episode in episodes)
    assert len(episodes) == 2
    assert stats.retries == 1


def test_devices_are_rebooted_after_so_many_episodes():
    phone = FakePhone()
    _, stats = collect(jobs_of(6), DicePolicy(), environments(phone), slots=1, restart_every=2)
    assert [call for call in phone.calls if call.startswith("reset")].count("reset REBOOT") == 2
    assert stats.restarts == 2


@pytest.mark.parametrize(("setting", "asked"), [("idle", 2), ("resample", 3)])
def test_the_policy_is_asked_again_with_another_seed_if_wanted(setting, asked):
    class Stutter(ScriptedPolicy):
        def act(self, requests):
            results = super().act(requests)
            return [dataclasses.replace(results[0], text="dance")] if len(self.requests) == 1 else results

    policy = Stutter(NEXT, NEXT)
    _, stats = collect(
        make_jobs([page_task(5, horizon=2)], run="r"),
        policy,
        lambda: Environment(FakePhone(), OracleJudge(), setting),
        slots=1,
    )
    assert len(policy.requests) == asked
    assert len({request.seed for request in policy.requests}) == asked
    assert (stats.redraws, stats.steps) == (asked - 2, 2)


def test_a_policy_that_never_finds_an_action_idles_in_the_end():
    policy = ScriptedPolicy("dance", "dance")
    episodes, stats = collect(
        make_jobs([page_task(5, horizon=2)], run="r"),
        policy,
        lambda: Environment(FakePhone(), OracleJudge(), "resample"),
        slots=1,
    )
    assert (stats.redraws, stats.steps) == (6, 2)
    assert episodes[0].steps[0].parse_error == "unknown action 'dance'"


def test_a_dead_device_is_given_up_and_its_job_goes_to_another_slot():
    phones = [DeadPhone(), FakePhone()]
    jobs = make_jobs([page_task(1, name="a"), page_task(1, name="b")], run="r")
    episodes, stats = collect(
        jobs, ScriptedPolicy(NEXT), environments(*phones), slots=2, quarantine_after=2, device_retries=5
    )
    assert sorted(e.task.task_id for e in episodes if e.success) == ["a", "b"]
    assert stats.device_errors == {"DeviceUnreachable": 2}


def test_failed_resets_that_were_mended_do_not_add_up():
    device = faulty(*(Fault(FaultKind.UNREACHABLE, call=1 + 5 * n) for n in range(4)))
    jobs = make_jobs([page_task(1, name=f"t/{n}") for n in range(12)], run="r")
    episodes, stats = collect(jobs, ScriptedPolicy(NEXT), environments(device), slots=1, quarantine_after=2)
    assert sum(e.success for e in episodes) == 12
    assert stats.device_errors == {"DeviceUnreachable": 4}


def test_a_rollout_without_a_device_left_ends_with_its_cause():
    with pytest.raises(DeviceBroken, match="6 DeviceUnreachable"):
        collect(jobs_of(30), DicePolicy(), lambda: Environment(DeadPhone(), OracleJudge()), slots=1)


def test_refused_actions_are_counted():
    _, stats = collect(make_jobs([page_task(1)], run="r"), ScriptedPolicy("type x", "type y", NEXT))
    assert (stats.rejected, stats.steps) == (2, 3)


def test_an_episode_carries_the_policy_version_that_it_began_with():
    class Updated(ScriptedPolicy):
        def act(self, requests):
            results = super().act(requests)
            return [dataclasses.replace(r, policy_version=f"v{len(self.requests)}") for r in results]

    episodes, _ = collect(make_jobs([page_task(3)], run="r"), Updated(*[NEXT] * 3))
    assert episodes[0].policy_version == "v1"


def test_environments_are_closed_at_the_end():
    phone = FakePhone()
    collect(jobs_of(2), DicePolicy(), environments(phone), slots=1)
    assert phone.calls[-1] == "close"


def test_spare_environments_are_used_again_without_a_restart():
    phone, spare = FakePhone(), []
    for _ in range(2):
        collect(jobs_of(2), DicePolicy(), environments(phone), slots=1, spare=spare)
    assert phone.calls.count("start") == 1
    assert "close" not in phone.calls


@pytest.mark.parametrize("spare", [None, []])
def test_environments_are_closed_when_the_rollout_fails(spare):
    phone = FakePhone()
    with pytest.raises(IndexError):
        collect(make_jobs([page_task(5)], run="r"), ScriptedPolicy(NEXT), environments(phone), spare=spare)
    assert phone.calls[-1] == "close"
    assert not spare


def test_a_policy_that_leaves_requests_out_is_an_error():
    class Lazy(DicePolicy):
        def act(self, requests):
            return super().act(requests)[1:]

    with pytest.raises(DigiQError, match="2 actions for 3 requests"):
        collect(jobs_of(3), Lazy(), slots=3)


def test_a_rollout_without_slots_is_refused():
    with pytest.raises(InputError, match="at least 1 slot"):
        collect(jobs_of(1), DicePolicy(), slots=0)


def test_no_jobs_are_no_work():
    episodes, stats = collect([], DicePolicy())
    assert (episodes, stats.episodes, stats.steps) == ([], 0, 0)


def test_statistics_add_up():
    first = RolloutStats(episodes=1, steps=2, phase_seconds={"act": 0.5}, device_errors={"SessionLost": 1})
    second = {"phase_seconds": {"act": 1.0, "policy": 2.0}, "device_errors": {"SessionLost": 2, "BrokenFrame": 1}}
    first.add(RolloutStats(episodes=10, steps=20, quarantined=["a"], slot_seconds=5.0, **second))
    assert (first.episodes, first.steps, first.quarantined) == (11, 22, ["a"])
    assert first.device_errors == {"SessionLost": 3, "BrokenFrame": 1}
    assert (first.device_seconds, first.policy_seconds, first.utilisation) == (1.5, 2.0, 0.3)


def test_adding_statistics_leaves_the_others_alone():
    total, part = RolloutStats(), RolloutStats(quarantined=["a"], tags={"blank": 1})
    total.add(part)
    total.add(part)
    assert (part.quarantined, part.tags) == (["a"], {"blank": 1})
    assert (total.quarantined, total.tags) == (["a", "a"], {"blank": 2})


def test_time_is_booked_on_who_spent_it():
    device = FaultyDevice(FakePhone(), FaultPlan(faults=(Fault(FaultKind.SLOW, step=1),), seconds=0.2))
    _, stats = collect(make_jobs([page_task(1)], run="r"), ScriptedPolicy(NEXT), environments(device))
    assert stats.device_seconds >= 0.2 > stats.policy_seconds
