"""Task sets: sequence behaviour, and the check that no goal is in both splits."""

import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import Task, TaskSet, check_no_overlap, normalise_text, overlap


def task_set(split: str, *texts: str) -> TaskSet:
    return TaskSet(f"webshop/{split}", [Task(f"{split}/{index}", text, 20, split) for index, text in enumerate(texts)])


def test_a_task_set_is_a_sequence_of_its_tasks():
    tasks = task_set("train", "Go to ebay.com", "Go to newegg.com")
    assert len(tasks) == 2
    assert [task.text for task in tasks] == ["Go to ebay.com", "Go to newegg.com"]
    assert tasks[1].task_id == "train/1"


def test_unique_texts_counts_each_goal_once():
    assert task_set("test", "Go to ebay.com", "Go to ebay.com", "Go to newegg.com").unique_texts == 2


@pytest.mark.parametrize(
    "text",
    [
        "go to costco.com, search for 'bose soundlink'",
        'Go to costco.com, search for "bose soundlink"',
        "Go to costco.com,  search for `bose soundlink`.",
        "Go to costco.com, search for \u201cbose soundlink\u201d?",
        " Go to costco.com, search for \u2018bose soundlink\u2019! ",
    ],
)
def test_quotes_case_spaces_and_closing_punctuation_do_not_make_another_goal(text):
    assert normalise_text(text) == "go to costco.com, search for 'bose soundlink'"


def test_overlap_sees_a_goal_that_differs_in_its_quotes():
    train = task_set("train", 'Go to ebay.com, search for "mug"', "Go to newegg.com")
    test = task_set("test", "Go to ebay.com, search for 'mug'", "Go to bestbuy.com")
    assert overlap(train, test) == ["go to ebay.com, search for 'mug'"]


def test_overlap_lets_goals_about_different_products_pass():
    train, test = task_set("train", 'search for "mug"'), task_set("test", 'search for "red mug"')
    assert overlap(train, test) == []
    check_no_overlap(train, test)


def test_overlapping_splits_are_an_input_error_that_counts_and_names_them():
    train = task_set("train", "Go to a.com", "Go to b.com")
    test = task_set("test", "go to b.com.", "Go to A.com", "Go to c.com")
    with pytest.raises(InputError, match=r"2 goals of webshop/test are also in webshop/train \(first: 'go to a.com'\)"):
        check_no_overlap(train, test)
