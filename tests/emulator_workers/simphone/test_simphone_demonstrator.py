import random

import pytest
from simphone_helpers import any_action, hit, random_phones

from digiq_ray.core.actions import ActionType, format_action, parse_action
from emulator_workers.simphone.demonstrator import _SHARES, demonstrate, situation
from emulator_workers.simphone.oracle import apply, best_action
from emulator_workers.simphone.phone import CALM, Hazards, SimPhone
from emulator_workers.simphone.tasks import KINDS, build
from emulator_workers.simphone.world import Release

DRAWS = 1500


def prepared(kind, screen, **state):
    task = next(task for name in KINDS for task in build(name, "pretrain", 80) if task.kind == kind)
    phone = SimPhone(task, release=Release.TEXTBOOK, hazards=CALM)
    phone.state.screen = screen
    for name, value in state.items():
        setattr(phone.state, name, value)
    return phone


def same(phone, action, best):
    """Whether two actions come to the same: touches of one element, or equal."""
    if action.type is ActionType.TAP and best.type is ActionType.TAP:
        return hit(phone, action) == hit(phone, best)
    return action == best


def with_shop(*, typed=False):
    phone = prepared("buy", "shop", focused=typed)
    phone.state.shop = phone.task.goal["shop"]
    phone.state.typed = phone.task.goal["item"] if typed else ""
    return phone


def with_note():
    phone = prepared("note", "notes", focused=True)
    phone.state.typed = phone.task.goal["note"]
    return phone


# In each of these the best action differs from the typical mistake.
CASES = {
    "advert": lambda: prepared("go", "browser", ad=0),
    "ad_page": lambda: prepared("go", "browser", ad_page=True),
    "loading": lambda: prepared("go", "browser", loading=True),
    "not_responding": lambda: prepared("go", "browser", not_responding=True),
    "shop": lambda: with_shop(),
    "shop_typed": lambda: with_shop(typed=True),
    "clock": lambda: prepared("alarm", "clock"),
    "notes": lambda: prepared("note", "notes"),
    "notes_typed": lambda: with_note(),
}


@pytest.mark.parametrize("where", sorted(CASES))
def test_the_best_action_is_taken_about_as_often_as_the_table_says(where):
    phone = CASES[where]()
    assert situation(phone) == where
    best, rng, share = best_action(phone), random.Random(1), _SHARES[where][0]
    taken = sum(same(phone, demonstrate(phone, rng), best) for _ in range(DRAWS)) / DRAWS
    assert share - 0.04 <= taken <= share + 0.09  # random actions add a little


@pytest.mark.parametrize("where", sorted(CASES))
def test_one_mistake_is_typical_of_each_screen(where):
    phone, rng, counts = CASES[where](), random.Random(2), {}
    best = best_action(phone)
    for _ in range(DRAWS):
        action = demonstrate(phone, rng)
        if not same(phone, action, best):
            key = hit(phone, action) if action.type is ActionType.TAP else action.type
            counts[key] = counts.get(key, 0) + 1
    assert max(counts.values()) / DRAWS > 0.25


def test_it_sometimes_stops_too_early():
    phone, rng = CASES["clock"](), random.Random(3)
    stops = sum(demonstrate(phone, rng).type is ActionType.COMPLETE for _ in range(DRAWS)) / DRAWS
    assert 0.01 < stops < 0.08


def test_it_is_a_function_of_phone_and_seed():
    phone = CASES["shop"]()

    def drawn(seed):
        rng = random.Random(seed)
        return [demonstrate(phone, rng) for _ in range(30)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("release", list(Release))
def test_it_acts_on_every_screen_of_its_own_episodes(release):
    rng = random.Random(4)
    for task in (task for name in KINDS for task in build(name, "pretrain", 150)):
        phone = SimPhone(task, release=release, hazards=Hazards(0.1, 0.1, 0.1, 0.05))
        for _ in range(task.horizon):
            phone.advance()
            action = demonstrate(phone, rng)
            assert parse_action(format_action(action)) == action
            apply(phone, action)


def test_it_acts_wherever_random_touches_lead():
    rng, seen = random.Random(5), set()
    for task in (task for name in KINDS for task in build(name, "pretrain", 60)):
        phone = SimPhone(task, release=Release.TEXTBOOK, hazards=Hazards(0.1, 0.1, 0.1, 0.05))
        for _ in range(30):
            phone.advance()
            seen.add(situation(phone))
            demonstrate(phone, rng)
            apply(phone, any_action(phone, rng))
    assert len(seen) >= 16


def test_it_acts_on_screens_of_other_tasks():
    tasks = [task for name in KINDS for task in build(name, "pretrain", 20)]
    rng = random.Random(6)
    for phone in random_phones(100):
        phone.task = rng.choice(tasks)
        demonstrate(phone, rng)


def test_it_solves_some_tasks_by_the_book_and_fails_many():
    rng, solved = random.Random(7), 0
    tasks = build("general", "pretrain", 200)
    for task in tasks:
        phone = SimPhone(task, release=Release.TEXTBOOK)
        for _ in range(task.horizon):
            phone.advance()
            action = demonstrate(phone, rng)
            apply(phone, action)
            if phone.succeeded() or action.ends_episode:
                break
        solved += phone.succeeded()
    assert 0.2 < solved / len(tasks) < 0.9
