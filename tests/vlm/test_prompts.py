import dataclasses

import pytest

from digiq_ray.vlm.prompts import COMPACT, NO_HISTORY, STANDARD, TEMPLATES

EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


@EACH
def test_the_prefix_holds_task_and_last_action(template):
    text = template.prefix_text("open mail", ("home", "tap 0.10 0.20"))
    assert "open mail" in text
    assert "tap 0.10 0.20" in text
    assert "home ;" not in text


@EACH
def test_without_a_past_the_prefix_says_so(template):
    assert NO_HISTORY in template.prefix_text("open mail", ())


def test_as_much_history_is_shown_as_the_template_says():
    actions = ("back", "home", "wait", "enter")
    two = dataclasses.replace(COMPACT, history=2).prefix_text("t", actions)
    assert "wait ; enter" in two
    assert "home" not in two
    none = dataclasses.replace(COMPACT, history=0).prefix_text("t", actions)
    assert NO_HISTORY in none
    assert "enter" not in none


@EACH
def test_braces_in_a_task_are_plain_text(template):
    assert "{x} {task}" in template.prefix_text("{x} {task}", ())


@EACH
def test_the_question_names_the_action_and_both_answers_differ(template):
    assert "type {red} mug" in template.change_text("type {red} mug")
    assert template.yes != template.no


@EACH
def test_the_prefix_depends_on_task_and_history_only(template):
    assert "{action}" not in template.prefix
    assert "{task}" not in template.act + template.change


def test_the_digest_changes_with_every_field():
    assert STANDARD.digest == dataclasses.replace(STANDARD).digest
    changed = [
        dataclasses.replace(STANDARD, **{field.name: 2 if field.name == "history" else "{task}{history}{action}"})
        for field in dataclasses.fields(STANDARD)
    ]
    assert len({STANDARD.digest, COMPACT.digest, *(one.digest for one in changed)}) == 2 + len(changed)
