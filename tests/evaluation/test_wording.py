import re
from importlib.resources import files
from typing import get_args

import pytest

from digiq_ray.core.settings import Control
from digiq_ray.evaluation.svg import colour
from digiq_ray.evaluation.wording import (
    duration,
    figure,
    number,
    percent,
    percent_range,
    points,
    policies_in_order,
    policy_words,
    short_duration,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (252, "4 min 12 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(30.1, "30 s"), (252, "4.2 min"), (7200, "2.0 h")])
def test_short_durations(seconds, text):
    assert short_duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0.31, "+31"), (-0.31, "−31"), (0.001, "0"), (-0.001, "0")])
def test_points_have_a_sign_unless_they_are_zero(value, text):
    assert points(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (-0.001, "0.00"), (-1.5, "−1.50"), (1234.5, "1,234.50")])
def test_numbers(value, text):
    assert number(value) == text


def test_rates_and_their_intervals():
    assert (percent(0.3125), percent(None)) == ("31%", "–")
    assert (percent_range((0.25, 0.377)), percent_range(None)) == ("25–38%", "–")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.5", True, [1]])
def test_what_is_no_finite_number_is_no_figure(value):
    assert figure({"critic": {"td_error": value}}, "critic", "td_error") is None


@pytest.mark.parametrize("report", [{}, {"critic": None}, {"critic": 3}, {"critic": {}}])
def test_a_figure_may_be_missing_at_any_depth(report):
    assert figure(report, "critic", "td_error") is None


def test_policies_come_in_the_order_of_the_story_and_unknown_ones_last():
    names = ("mine", "digi_q", "filtered_bc", "behaviour")
    report = {"policies": {**{name: {"n": 5} for name in names}, "random_candidate": {}}}
    assert [name for name, _ in policies_in_order(report)] == ["behaviour", "filtered_bc", "digi_q", "mine"]


def test_an_unknown_policy_keeps_its_name():
    assert policy_words("awr_beta").label == "Awr beta"


def test_every_policy_that_is_known_has_a_colour_of_its_own_on_the_page():
    names = ["behaviour", "digi_q", *get_args(Control)]
    colours = [policy_words(name).colour for name in names]
    assert len(set(colours)) == len(names)
    assert "other" not in colours
    css = (files("digiq_ray.evaluation") / "templates" / "report.css").read_text()
    for name in colours:
        assert colour(name)
        light, dark = re.findall(f"--{name}: (#[0-9a-f]{{6}});", css)
        assert light != dark or name == "behaviour"
