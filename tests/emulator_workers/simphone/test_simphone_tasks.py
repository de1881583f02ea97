import itertools

import pytest
from simphone_helpers import a_task

from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import check_no_overlap, normalise_text, overlap
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.tasks import HORIZONS, KINDS, RELEARNED, SPLITS, WORDINGS, build, make_task, phone_for
from emulator_workers.simphone.world import Release

SETS = pytest.mark.parametrize("name", sorted(KINDS))
MANY = 1500


def objects(tasks):
    """What the goals are about, without the shop: any of the three may sell any product."""
    found = set()
    for task in tasks:
        about = tuple(sorted((key, value) for key, value in task.goal.items() if key not in ("kind", "shop")))
        if about:
            found.add(about)
    return found


@SETS
def test_no_test_goal_occurs_in_training(name):
    train, test = build(name, "train", MANY), build(name, "test", MANY)
    assert overlap(train, test) == []
    check_no_overlap(train, test)


def test_no_test_goal_of_one_set_occurs_in_the_other_sets_training():
    for one, other in itertools.permutations(KINDS):
        check_no_overlap(build(one, "train", MANY), build(other, "test", MANY))


@SETS
def test_no_test_item_occurs_in_training(name):
    train, test = objects(build(name, "train", MANY)), objects(build(name, "test", MANY))
    assert train
    assert test
    assert not train & test


@SETS
def test_validation_is_held_out_from_practice_and_both_are_training_tasks(name):
    practice, validation, train = (build(name, split, MANY) for split in ("practice", "validation", "train"))
    check_no_overlap(practice, validation)
    assert not objects(practice) & objects(validation)
    assert objects(practice) | objects(validation) == objects(train)
    assert {task.text for task in validation} <= {
        w.format(**t.goal) for t in validation for w in WORDINGS[t.kind]["train"]
    }


@SETS
def test_validation_has_no_goal_of_the_test_split(name):
    test = build(name, "test", MANY)
    for split in ("practice", "validation"):
        tasks = build(name, split, MANY)
        check_no_overlap(tasks, test)
        assert not objects(tasks) & objects(test)


@SETS
def test_pretraining_has_every_item_and_no_test_wording(name):
    pretrain, test = build(name, "pretrain", MANY), build(name, "test", MANY)
    assert objects(pretrain) >= objects(test)
    assert overlap(pretrain, test) == []
    for task in pretrain:
        told = {wording.format(**task.goal) for wording in WORDINGS[task.kind]["train"]}
        assert task.text in told


def test_train_and_test_wordings_differ_for_every_kind():
    for by_split in WORDINGS.values():
        train, test = ({normalise_text(w) for w in by_split[split]} for split in ("train", "test"))
        assert train
        assert test
        assert not train & test


@SETS
@pytest.mark.parametrize("split", SPLITS)
def test_every_task_has_the_sets_horizon_its_split_and_an_own_id(name, split):
    tasks = build(name, split, 300)
    assert {task.horizon for task in tasks} == {HORIZONS[name]}
    assert {task.split for task in tasks} == {split}
    assert len({task.task_id for task in tasks}) == 300
    assert {task.kind for task in tasks} == {kind for kind, _ in KINDS[name]}
    assert all(task.goal["kind"] == task.kind for task in tasks)


def test_the_webshop_is_the_longer_set():
    assert HORIZONS == {"general": 10, "webshop": 20}


@SETS
def test_a_task_is_a_function_of_its_arguments(name):
    assert make_task(name, "test", 7, 3) == make_task(name, "test", 7, 3)
    assert list(build(name, "train", 50, 1)) == list(build(name, "train", 80, 1))[:50]


@SETS
def test_another_seed_gives_other_tasks(name):
    one, other = build(name, "train", 50, 1), build(name, "train", 50, 2)
    assert [(t.text, t.seed) for t in one] != [(t.text, t.seed) for t in other]
    assert not {t.task_id for t in one} & {t.task_id for t in other}


@SETS
def test_at_least_a_third_of_test_tasks_need_what_pretraining_called_wrong(name):
    tasks = build(name, "test", MANY)
    assert sum(task.kind in RELEARNED for task in tasks) / MANY > 0.5


@SETS
def test_texts_name_all_of_the_goal(name):
    for task in build(name, "test", 200):
        for key, value in task.goal.items():
            assert key == "kind" or value in task.text


def test_unknown_names_are_input_errors_that_name_the_choices():
    with pytest.raises(InputError, match="general, webshop"):
        build("games", "train", 1)
    with pytest.raises(InputError, match="train, test, practice, validation, pretrain"):
        build("general", "dev", 1)


@SETS
def test_no_task_is_solved_at_the_start(name):
    for split in SPLITS:
        assert not any(phone_for(task).succeeded() for task in build(name, split, 300))


def test_phone_for_starts_the_tasks_own_phone():
    task = make_task("webshop", "test", 3, 0)
    phone = phone_for(task, Release.TEXTBOOK)
    assert (phone.task, phone.release) == (task, Release.TEXTBOOK)
    assert phone.shops == SimPhone(task).shops


def test_a_goal_that_no_phone_knows_never_succeeds():
    assert not SimPhone(a_task(kind="dance")).succeeded()
