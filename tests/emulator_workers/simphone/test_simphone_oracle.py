import itertools

import pytest
from simphone_helpers import calm_phone, hit, on_screen, random_phones

from digiq_ray.core.actions import ActionType, format_action, parse_action, press, tap
from emulator_workers.simphone.oracle import UNREACHABLE, apply, best_action, distance, makes_progress, touch
from emulator_workers.simphone.phone import CALM, SimPhone
from emulator_workers.simphone.tasks import KINDS, RELEARNED, build
from emulator_workers.simphone.world import Release

SETS = pytest.mark.parametrize("name", sorted(KINDS))
BOTH = pytest.mark.parametrize("release", list(Release))
COUNT = 150


def calm(task, release=Release.UPDATED):
    return SimPhone(task, release=release, hazards=CALM)


def by_the_book(phone):
    """The textbook's best action, whatever the phone runs."""
    textbook = phone.clone()
    textbook.release = Release.TEXTBOOK
    return best_action(textbook)


def path(phone):
    """Clones of the phone before each best action, up to success."""
    found = []
    while not phone.succeeded() and len(found) < UNREACHABLE:
        found.append(phone.clone())
        apply(phone, best_action(phone))
    return found


@SETS
@BOTH
@pytest.mark.parametrize("split", ["train", "test"])
def test_best_actions_solve_every_task_within_its_horizon(name, release, split):
    for task in build(name, split, COUNT):
        phone = calm(task, release)
        assert 0 < len(path(phone)) <= task.horizon
        assert phone.succeeded()


@SETS
@BOTH
def test_each_best_action_brings_the_goal_one_step_nearer(name, release):
    for task in build(name, "test", COUNT):
        phone = calm(task, release)
        states = path(phone)
        for before, after in itertools.pairwise([*states, phone]):
            searched = (before.state.screen, after.state.screen) == ("shop", "results")
            unlucky = searched and task.kind == "buy" and task.goal["item"] not in after.visible
            assert distance(before) - distance(after) == (0 if unlucky else 1)
        assert distance(phone) == 0
        assert all(makes_progress(state, best_action(state)) for state in states)


@SETS
def test_best_actions_survive_the_text_form(name):
    for task in build(name, "test", 40):
        for state in path(calm(task)):
            action = best_action(state)
            assert parse_action(format_action(action)) == action


def interrupt(phone, what):
    phone.state.screen = "settings"
    if what == "ad":
        phone.state.ad = 1
    else:
        setattr(phone.state, what, True)
    return phone


@BOTH
@pytest.mark.parametrize("what", ["ad", "ad_page", "not_responding", "loading"])
def test_interruptions_cost_one_action_and_the_best_one_ends_them(release, what):
    for task in build("general", "test", 20):
        phone = calm(task, release)
        phone.state.screen = "settings"
        undisturbed = distance(phone)
        if undisturbed == 0:
            continue
        interrupt(phone, what)
        assert distance(phone) == undisturbed + 1
        assert makes_progress(phone, best_action(phone))


def test_the_goal_can_be_reached_from_every_screen():
    tasks = [task for name in KINDS for task in build(name, "test", 12)]
    for screen in ("home", "browser", "shop", "results", "product", "cart", "settings", "clock", "new_alarm", "notes"):
        for task in tasks:
            phone = calm(task)
            phone.state = on_screen(screen, task.seed).state
            assert distance(phone) < UNREACHABLE


def test_an_unparsable_or_ending_action_makes_no_progress():
    phone = calm_phone(kind="open", app="mail")
    assert not makes_progress(phone, None)
    assert not makes_progress(phone, press(ActionType.COMPLETE))
    assert not makes_progress(phone, press(ActionType.IMPOSSIBLE))


def test_an_action_that_does_nothing_or_leads_away_makes_no_progress():
    phone = calm_phone(kind="toggle", toggle="wifi", value="on")
    assert not makes_progress(phone, press(ActionType.ENTER))
    phone.state.screen = "settings"
    assert not makes_progress(phone, press(ActionType.HOME))
    assert makes_progress(phone, best_action(phone))


def test_luck_of_a_coming_search_counts_for_nothing():
    for task in (task for task in build("webshop", "test", 80) if task.kind != "go"):
        phone = calm(task)
        distances = set()
        for _ in range(6):
            phone.random.random()
            distances.add(distance(phone))
            assert not makes_progress(phone, press(ActionType.ENTER))
        assert len(distances) == 1


def test_asking_changes_nothing():
    phone = calm(build("webshop", "test", 1)[0])
    before = (phone.state.screen, phone.random.getstate())
    distance(phone)
    makes_progress(phone, best_action(phone))
    assert (phone.state.screen, phone.random.getstate()) == before


def test_a_touch_reaches_its_element_from_the_grid_of_coordinates():
    for phone in random_phones(100):
        for element in phone.elements():
            action = touch(element)
            assert hit(phone, action) == element
            assert action == tap(round(action.x * 50) / 50, round(action.y * 50) / 50)


# ---- what pre-training cannot have taught


def relearned_tasks():
    return [task for name in KINDS for task in build(name, "test", 120) if task.kind in RELEARNED]


def test_relearned_tasks_need_an_action_that_the_textbook_calls_wrong():
    for task in relearned_tasks():
        decisive = 0
        for state in path(calm(task)):
            textbook = state.clone()
            textbook.release = Release.TEXTBOOK
            action = best_action(state)
            if action != best_action(textbook) and not makes_progress(textbook, action):
                decisive += 1
        assert decisive >= 1, task.text


def test_playing_by_the_book_never_solves_a_relearned_task_after_the_update():
    for task in relearned_tasks():
        phone = calm(task)
        for _ in range(task.horizon):
            apply(phone, by_the_book(phone))
            assert not phone.succeeded(), task.text


def test_playing_by_the_book_still_solves_the_other_tasks():
    for task in (task for name in KINDS for task in build(name, "test", 60)):
        phone = calm(task)
        for _ in range(task.horizon):
            if phone.succeeded():
                break
            apply(phone, by_the_book(phone))
        assert phone.succeeded() == (task.kind not in RELEARNED)
