import random

import pytest
from simphone_helpers import hit, random_phones

from digiq_ray.core.actions import ActionType, format_action, parse_action, tap
from digiq_ray.vlm.tiny import make_processor
from emulator_workers.simphone.demonstrator import demonstrate
from emulator_workers.simphone.lessons import questions, random_phone, words
from emulator_workers.simphone.oracle import apply
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.screens import ITEM_COLOURS
from emulator_workers.simphone.tasks import KINDS, SPLITS, build
from emulator_workers.simphone.world import SHOPS, Release


@pytest.fixture(scope="module")
def asked():
    """Phones with all that can be asked about them."""
    return [(phone, list(questions(phone, random.Random(0), most=99))) for phone in random_phones(300)]


def pairs(asked, beginning):
    found = [(phone, q.removeprefix(beginning), a) for phone, qa in asked for q, a in qa if q.startswith(beginning)]
    assert len(found) > 10
    return found


def names(element):
    """What a lesson may call the element."""
    return {element.name, {"alarms": "list", "note": "field"}.get(element.tag, element.tag)}


def test_an_answer_to_find_touches_what_was_asked_for(asked):
    for phone, name, answer in pairs(asked, "find "):
        found = hit(phone, parse_action(answer))
        assert found is not None
        assert name in names(found)


def test_an_answer_to_name_is_what_is_there(asked):
    for phone, where, answer in pairs(asked, "name "):
        found = hit(phone, tap(*map(float, where.split())))
        assert found is not None
        assert answer in names(found)


@pytest.mark.parametrize(("word", "part"), [("colour at ", 0), ("thing at ", 1)])
def test_answers_about_products_say_what_is_drawn_there(asked, word, part):
    for phone, where, answer in pairs(asked, word):
        found = hit(phone, tap(*map(float, where.split())))
        assert found is not None
        assert found.name.split()[part] == answer
        assert found.name.split()[0] in ITEM_COLOURS


def test_answers_about_switches_are_their_states(asked):
    for phone, rest, answer in pairs(asked, "is "):
        subject = rest.split()[0]
        if subject in phone.state.toggles:
            assert (answer == "yes") == phone.state.toggles[subject]
        else:
            assert (answer == "yes") == (phone.state.focused if subject == "field" else bool(phone.state.typed))


def test_answers_about_the_screen_name_it(asked):
    for phone, _, answer in pairs(asked, "which screen"):
        state = phone.state
        expected = state.screen.replace("_", "-")
        if state.ad is not None:
            expected = "advert"
        if state.loading:
            expected = "loading"
        if state.not_responding:
            expected = "wait"
        assert answer == expected


def test_answers_about_shops_products_and_hours_are_the_phones(asked):
    for phone, _, answer in pairs(asked, "which page"):
        assert answer == phone.state.shop
        assert answer in SHOPS
    for phone, _, answer in pairs(asked, "which product"):
        assert answer == phone.state.product
    for phone, _, answer in pairs(asked, "which chosen"):
        assert answer == (phone.state.hour or "none")


def test_typing_lessons_are_dictation(asked):
    for _, text, answer in pairs(asked, "typing "):
        action = parse_action(answer)
        assert (action.type, action.text) == (ActionType.TYPE, text)


def test_no_more_is_asked_than_allowed_and_any_question_may_come_first():
    phone = next(p for p in random_phones(100) if p.state.screen == "home" and len(p.elements()) == 9)
    firsts = {next(questions(phone, random.Random(seed)))[0] for seed in range(60)}
    assert len(firsts) > 8
    assert len(list(questions(phone, random.Random(0), most=4))) == 4


def test_no_lesson_is_a_task(asked):
    texts = {task.text for name in KINDS for split in SPLITS for task in build(name, split, 400)}
    assert not texts & {question for _, qa in asked for question, _ in qa}


def test_lessons_are_a_function_of_their_seed():
    def drawn(seed):
        rng = random.Random(seed)
        return [list(questions(random_phone(rng), rng)) for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_lessons_cover_every_kind_of_state(asked):
    answers = {answer for phone, _, answer in pairs(asked, "which screen")}
    assert answers >= {"home", "shop", "results", "product", "settings", "clock", "new-alarm", "notes", "advert"}


# ---- the tokenizer knows every word


@pytest.fixture(scope="module")
def tokenizer():
    return make_processor(words()).tokenizer


def unknown(tokenizer, texts):
    return {text for text in texts if tokenizer.unk_token_id in tokenizer(text, add_special_tokens=False)["input_ids"]}


def test_every_word_of_the_lessons_is_known(tokenizer, asked):
    assert unknown(tokenizer, {text for _, qa in asked for pair in qa for text in pair}) == set()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_word_of_the_tasks_is_known(tokenizer, name):
    assert unknown(tokenizer, {task.text for split in SPLITS for task in build(name, split, 600)}) == set()


def test_every_word_of_the_demonstrator_is_known(tokenizer):
    rng, texts = random.Random(0), set()
    for task in (task for name in KINDS for task in build(name, "pretrain", 60)):
        phone = SimPhone(task, release=Release.TEXTBOOK)
        for _ in range(task.horizon):
            phone.advance()
            action = demonstrate(phone, rng)
            texts.add(format_action(action))
            apply(phone, action)
    assert len(texts) > 100
    assert unknown(tokenizer, texts) == set()


def test_a_word_outside_is_noticed(tokenizer):
    assert unknown(tokenizer, {"xylophone"}) == {"xylophone"}
