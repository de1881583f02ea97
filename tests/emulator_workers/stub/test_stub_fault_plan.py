import pytest

from digiq_ray.core.errors import InputError
from emulator_workers.stub.faults import PlannedFault, StubFault, StubFaultPlan

UDID = "emulator-5554"


def kinds(plan, episode, step, udid=UDID):
    return [fault.kind for fault in plan.due(udid, episode, step)]


def test_a_named_fault_strikes_at_its_step_of_its_episode_only():
    plan = StubFaultPlan(faults=(PlannedFault(StubFault.UIA2_CRASH, 3, episode=1),))
    struck = [(episode, step) for episode in range(3) for step in range(6) if kinds(plan, episode, step)]
    assert struck == [(1, 3)]


def test_a_named_fault_without_an_episode_strikes_in_each():
    plan = StubFaultPlan(faults=(PlannedFault(StubFault.UIA2_CRASH, 3, episode=None),))
    assert [kinds(plan, episode, 3) for episode in range(2)] == [[StubFault.UIA2_CRASH]] * 2


def test_several_faults_can_strike_at_once():
    both = (StubFault.PORT_CLASH, StubFault.UIA2_CRASH)
    plan = StubFaultPlan(faults=tuple(PlannedFault(kind, 0) for kind in both))
    assert kinds(plan, 0, 0) == list(both)


def test_the_same_seed_draws_the_same_faults():
    draws = [
        [kinds(StubFaultPlan(rates={StubFault.WRONG_SIZE: 0.3}, seed=seed), 0, step) for step in range(200)]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_phones_and_episodes_have_draws_of_their_own():
    plan = StubFaultPlan(rates={StubFault.WRONG_SIZE: 0.3})
    draws = {
        (udid, episode): str([kinds(plan, episode, s, udid) for s in range(200)]) for udid in "ab" for episode in (0, 1)
    }
    assert len(set(draws.values())) == 4


def test_rates_are_probabilities_per_frame():
    rates = {StubFault.UIA2_CRASH: 0.1, StubFault.FROZEN_SCREENSHOT: 0.2}
    plan = StubFaultPlan(rates=rates, seed=7)
    drawn = [kind for step in range(5000) for kind in kinds(plan, 0, step)]
    assert {kind: drawn.count(kind) / 5000 for kind in rates} == pytest.approx(rates, abs=0.03)
    assert set(drawn) == set(rates)


@pytest.mark.parametrize(
    "rates", [{StubFault.UIA2_CRASH: -0.1}, {StubFault.UIA2_CRASH: 0.6, StubFault.WRONG_SIZE: 0.6}]
)
def test_rates_that_are_no_probabilities_are_refused(rates):
    with pytest.raises(InputError, match="fault rates"):
        StubFaultPlan(rates=rates)
