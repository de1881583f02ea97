"""Balance and stability of stage 1's labels."""

from digiq_ray.core.actions import parse_action
from digiq_ray.diagnostics.labels import LabelledStep, label_quality


def step(screen: bytes, text: str, changed: bool) -> LabelledStep:
    return LabelledStep(screen, text, parse_action(text) if text != "?" else None, changed)


def test_labels_are_counted():
    found = label_quality([step(b"a", "back", True), step(b"b", "back", False), step(b"c", "home", True)])
    assert (found["changed"], found["unchanged"]) == (2, 1)
    assert (found["idle"], found["idle_changed"], found["repeated"], found["contradicted"]) == (0, None, 0, None)


def test_a_change_after_an_action_that_touches_nothing_is_counted_as_noise():
    texts = ("wait", "complete", "impossible", "?")
    found = label_quality([step(bytes([i]), text, i == 0) for i, text in enumerate(texts)] + [step(b"x", "back", True)])
    assert (found["idle"], found["idle_changed"]) == (4, 0.25)


def test_equal_screens_and_actions_with_different_labels_contradict_each_other():
    same = [step(b"a", "back", changed) for changed in (True, True, True, False)]
    found = label_quality([*same, step(b"b", "back", False), step(b"a", "home", False)])
    assert (found["repeated"], found["contradicted"]) == (4, 0.25)


def test_no_steps_have_no_shares():
    found = label_quality([])
    assert (found["changed"], found["unchanged"], found["idle_changed"], found["contradicted"]) == (0, 0, None, None)
