"""Alarms on made-up figures: a healthy run raises none, each fault exactly its own."""

import pytest

from digiq_ray.diagnostics.alarms import (
    Alarm,
    critic_alarms,
    extraction_alarms,
    finetune_alarms,
    target_change,
    td_growth,
)

POINTS = 60


def curve(values) -> list[list[float]]:
    return [[10.0 * (index + 1), value] for index, value in enumerate(values)]


def healthy(**changes):
    """A critic as a run of the demo leaves it, with some figures changed."""
    falling = [0.1 + 0.2 / (index + 1) for index in range(POINTS)]
    figures = {
        "action_sensitivity": 0.49,
        "chance_sensitivity": 3.6,
        "variance_over_actions": 0.02,
        "variance_over_states": 0.04,
        "rank_agreement": 0.8,
        "q_largest": 1.13,
        "value_bound": 1.0,
        "most_candidates": 16,
        "least_return": 0.0,
        "largest_return": 1.0,
        "curve": [[*point, 0.05, 0.3] for point in curve(falling)],
        "target_curve": curve([0.002] * POINTS),
    }
    return {**figures, **changes}


def names(alarms: list[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


def test_a_healthy_critic_raises_none():
    assert critic_alarms(healthy()) == []


RISING = [[*point, 0.05, 0.3] for point in curve([0.1] * 30 + [0.1 * 1.1**index for index in range(30)])]
FAULTS = {
    "q_ignores_the_action": {"action_sensitivity": 0.002},
    "q_does_not_know_the_state": {"action_sensitivity": 3.24},
    "rankings_unreliable": {"rank_agreement": 0.03},
    "td_error_grows": {"curve": RISING},
    "q_out_of_range": {"q_largest": 1.7},
    "every_return_is_the_same": {"least_return": 1.0},
    "nothing_to_choose": {"most_candidates": 1, "action_sensitivity": 0.0},
    "targets_move_too_fast": {"target_curve": curve([0.05] * POINTS)},
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_a_critic_raises_its_alarm_and_no_other(name):
    (alarm,) = critic_alarms(healthy(**FAULTS[name]))
    assert (alarm.name, alarm.stage) == (name, "train-critic")


def test_an_alarm_names_its_figure_its_cause_and_a_setting():
    (alarm,) = critic_alarms(healthy(q_largest=2.0))
    assert (alarm.value, alarm.limit) == (2.0, 1.5)
    assert alarm.sentence.startswith("q_out_of_range: 2 (limit 1.5). Q is larger than any return")
    assert "critic.learning_rate" in alarm.change
    assert "\n" not in alarm.sentence
    assert set(alarm.to_json()) == {"name", "stage", "value", "limit", "cause", "change"}


def test_the_order_of_a_blind_critic_is_not_a_second_alarm():
    blind = healthy(action_sensitivity=0.0, rank_agreement=0.0)
    assert names(critic_alarms(blind)) == ["q_ignores_the_action"]


def test_the_order_of_a_q_that_is_noise_is_not_a_second_alarm():
    assert names(critic_alarms(healthy(action_sensitivity=3.24, rank_agreement=0.0))) == ["q_does_not_know_the_state"]


def test_with_fewer_candidates_noise_looks_more_like_knowledge():
    assert names(critic_alarms(healthy(action_sensitivity=0.9, chance_sensitivity=1.0))) == [
        "q_does_not_know_the_state"
    ]
    assert critic_alarms(healthy(action_sensitivity=0.9, chance_sensitivity=15.0)) == []


def test_where_each_state_has_one_candidate_nothing_is_known_of_chance():
    assert critic_alarms(healthy(action_sensitivity=0.5, chance_sensitivity=0.0)) == []


def test_a_q_that_is_the_same_everywhere_has_no_sensitivity_to_judge():
    assert critic_alarms(healthy(action_sensitivity=0.0, variance_over_states=0.0)) == []


def test_what_could_not_be_measured_raises_nothing():
    assert critic_alarms({}) == extraction_alarms({}) == finetune_alarms({}) == []
    assert critic_alarms(healthy(rank_agreement=None, value_bound=None, target_curve=[])) == []


def test_growth_compares_the_last_third_with_the_best_stretch():
    assert td_growth([0.4] * 3 + [0.1] * 3 + [0.3] * 3) == pytest.approx(3.0)
    assert td_growth([0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]) == pytest.approx(1.0)


def test_a_single_low_point_is_no_minimum():
    assert td_growth([0.2] * 10 + [0.01] + [0.2] * 19) < 2.0


def test_a_short_curve_has_no_trend():
    assert td_growth([0.1, 0.9]) is None
    assert target_change([1.0] * 5, [0.1] * 5) is None


def test_the_targets_change_as_a_share_of_the_error():
    assert target_change([0.01] * 6 + [0.04] * 3, [0.1] * 9) == pytest.approx(0.2)


@pytest.mark.parametrize(("share", "rings"), [(0.0, True), (0.01, True), (0.02, False), (0.9, False)])
def test_no_positive_advantage(share, rings):
    assert names(extraction_alarms({"positive_advantage": share})) == ["no_positive_advantage"] * rings


def stage1(changed: int, unchanged: int, *losses: float):
    return {"labels": {"changed": changed, "unchanged": unchanged}, "answer_loss": curve(losses)}


@pytest.mark.parametrize(
    ("changed", "unchanged", "advice"),
    [(500, 0, "raise finetune.threshold"), (997, 3, "finetune.ignore_boxes"), (0, 7, "lower finetune.threshold")],
)
def test_labels_of_one_class_are_degenerate(changed, unchanged, advice):
    (alarm,) = finetune_alarms(stage1(changed, unchanged, 0.6, 0.1))
    assert (alarm.name, alarm.stage) == ("labels_degenerate", "finetune")
    assert advice in alarm.change


def test_labels_that_are_merely_unbalanced_pass():
    assert finetune_alarms(stage1(99, 1, 0.5, 0.2)) == []


def test_a_loss_of_exactly_zero_is_the_originals_failure():
    assert names(finetune_alarms(stage1(700, 300, 0.2528, 0.0, 0.0))) == ["loss_is_zero"]
    assert finetune_alarms(stage1(700, 300, 0.2528, 1e-7)) == []
