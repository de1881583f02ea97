"""The original's task lists: the numbers that are known of them, and test splits that are clean."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.tasks import check_no_overlap
from digiq_ray.store.legacy.tasks import import_task_lists, load_task_set, overlap_counts, read_task_list

AITW = Path(__file__).parents[2] / "data" / "aitw"


@pytest.fixture
def lists(tmp_path: Path) -> list[Path]:
    train, test = tmp_path / "shop_train.txt", tmp_path / "shop_test.txt"
    train.write_text('Go to a.com\nFind "mug"\nFind "mug"\n')
    test.write_text("Find 'mug'\n\nFind 'cup'\nGo to A.com\n")
    return [train, test]


@pytest.mark.parametrize(
    ("name", "rows", "unique"),
    [("general_train", 545, 545), ("general_test", 432, 432), ("webshop_train", 438, 229), ("webshop_test", 360, 193)],
)
def test_the_originals_lists_have_so_many_tasks(name, rows, unique):
    tasks = read_task_list(AITW / f"{name}.txt")
    assert (len(tasks), tasks.unique_texts) == (rows, unique)


def test_every_general_test_goal_is_a_training_goal():
    found = overlap_counts(*(read_task_list(AITW / f"general_{split}.txt") for split in ("train", "test")))
    assert found["exact"] == {"unique": 432, "rows": 432, "evaluated_rows": 96}


def test_most_web_shopping_overlap_hides_behind_other_quotes():
    found = overlap_counts(*(read_task_list(AITW / f"webshop_{split}.txt") for split in ("train", "test")))
    assert (found["exact"]["unique"], found["exact"]["evaluated_rows"]) == (5, 32)
    assert found["normalised"] == {"unique": 77, "rows": 214, "evaluated_rows": 56}


def test_the_sites_of_the_evaluated_tasks_are_their_kinds():
    evaluated = read_task_list(AITW / "webshop_test.txt").tasks[:96]
    assert Counter(task.kind for task in evaluated) == {
        "ebay.com": 27,
        "costco.com": 24,
        "walmart.com": 15,
        "newegg.com": 15,
        "bestbuy.com": 15,
    }
    assert len({task.text for task in evaluated}) == 67


def test_the_horizon_is_that_of_the_set():
    horizons = {name: read_task_list(AITW / f"{name}_test.txt")[0].horizon for name in ("general", "webshop")}
    assert horizons == {"general": 10, "webshop": 20}


def test_task_ids_are_those_of_the_lines(lists):
    tasks = read_task_list(lists[1], horizon=5)
    assert [task.task_id for task in tasks] == ["shop/test/00000", "shop/test/00002", "shop/test/00003"]


def test_a_clean_test_split_shares_no_goal_with_training(lists, tmp_path):
    report = import_task_lists(lists, tmp_path / "out", horizon=5, drop_overlap=True)
    train, test = (load_task_set(tmp_path / "out" / f"shop-{split}.json") for split in ("train", "test"))
    check_no_overlap(train, test)
    assert [task.task_id for task in test] == ["shop/test/00002"]
    assert report["tasks"] == {"shop/train": 3, "shop/test": 1}


def test_what_is_saved_is_what_was_read(lists, tmp_path):
    import_task_lists(lists, tmp_path / "out", horizon=5)
    saved, read = load_task_set(tmp_path / "out" / "shop-train.json"), read_task_list(lists[0], horizon=5)
    assert (saved.name, list(saved)) == (read.name, list(read))


def test_saving_again_changes_nothing_and_another_set_is_refused(lists, tmp_path):
    import_task_lists(lists, tmp_path / "out", horizon=5)
    import_task_lists(lists, tmp_path / "out", horizon=5)
    with pytest.raises(InputError, match="another task set of this name"):
        import_task_lists(lists, tmp_path / "out", horizon=6)


def test_a_split_of_which_nothing_would_be_left_is_refused_and_nothing_saved(tmp_path):
    paths = [AITW / "general_train.txt", AITW / "general_test.txt"]
    with pytest.raises(InputError, match="every goal of general/test is also in general/train"):
        import_task_lists(paths, tmp_path / "out", drop_overlap=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("tasks.txt", b"a\n", "does not say the split"),
        ("shop_train.txt", b"a\n", "horizon of shop is not known"),
        ("general_train.txt", b"\n \n", "holds no task"),
        ("general_train.txt", b"\xff\xfe", "is not a whole"),
    ],
)
def test_what_is_no_task_list_is_refused(tmp_path, name, content, line):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        read_task_list(path)


def test_dropping_overlap_needs_both_splits(lists):
    with pytest.raises(InputError, match="needs both splits"):
        import_task_lists(lists[:1], horizon=5, drop_overlap=True)


def test_the_same_split_twice_is_refused(lists, tmp_path):
    again = tmp_path / "again" / "shop_train.txt"
    again.parent.mkdir()
    again.write_text("c\n")
    with pytest.raises(InputError, match="both shop/train"):
        import_task_lists([lists[0], again], horizon=5)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": 1}', b'{"name": "a", "tasks": [{"x": 1}]}'])
def test_a_file_that_is_no_saved_set_is_refused(tmp_path, content):
    path = tmp_path / "set.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is not a saved task set"):
        load_task_set(path)
