import io

import pytest
from rich.console import Console

from digiq_ray.evaluation.table import print_report


def printed(report, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_report(report, console)
    return console.file.getvalue()


def test_each_policy_has_its_results_with_intervals(full_report):
    lines = [" ".join(line.split()) for line in printed(full_report).splitlines()]
    assert "Behaviour policy 31% (25–38%) 31% (25–38%) 31% (23–41%)" in lines
    assert "Digi-Q 65% (58–71%) 65% (58–71%) 65% (55–74%)" in lines


def test_it_fits_80_columns_without_breaking_a_result(full_report):
    lines = printed(full_report).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("(58–71%)" in line for line in lines) == 1


def test_the_ranking_is_one_sentence(full_report):
    words = " ".join(printed(full_report).split())
    assert "Right candidate in 300 states: highest Q 78%, most likely 47%, random 41%; 93% hold a right one." in words


def test_stages_that_were_done_before_say_so(full_report):
    words = " ".join(printed(full_report).split())
    assert "Where the time went: 2 min 5 s in all" in words
    assert "embed done before" in words


def test_the_longest_stage_has_the_longest_bar(full_report):
    bars = {line.split()[0]: line.count("█") for line in printed(full_report).splitlines() if "█" in line}
    assert bars == {"collect": 8, "evaluate": 24}


def test_failed_checks_are_named(full_report):
    words = " ".join(printed(full_report).split())
    assert "Checks: 1 of 2 passed" in words
    assert "FAILED the critic ranks by 5 points only" in words


def test_markup_in_texts_is_printed_as_it_is(full_report):
    full_report["checks"][0]["name"] = "[red]x[/nonsense]"
    full_report["stages"][0]["name"] = "[bold]"
    words = printed(full_report)
    assert "[red]x[/nonsense]" in words
    assert "[bold]" in words


@pytest.mark.parametrize("key", ["policies", "stages", "ranking", "checks", "seconds"])
def test_any_part_may_be_missing(full_report, key):
    whole = printed(full_report).split()
    del full_report[key]
    assert 0 < len(printed(full_report).split()) < len(whole)


def test_an_empty_report_prints_nothing():
    assert printed({}) == ""


def test_alarms_are_printed_with_what_to_change(full_report):
    assert "Alarms" not in printed(full_report)
    full_report["alarms"] = [
        {
            "name": "q_out_of_range",
            "stage": "train-critic",
            "value": 1.7,
            "limit": 1.5,
            "cause": "",
            "change": "lower it",
        }
    ]
    assert "! train-critic: q out of range (1.7, limit 1.5): lower it" in " ".join(printed(full_report).split())
