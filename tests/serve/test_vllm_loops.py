"""vLLM behind the loops: the same answers as Transformers, other models on demand, and engines that are killed."""

import pytest
from vllm_testing import picture, processes_of

from digiq_ray.core.errors import ConfigError, DeadlineExceededError, ModelError
from digiq_ray.core.policies import ActRequest
from serve.engine import EnginePolicy
from serve.protocols import Failure, Reader, State
from serve.transformers_engine import TransformersEngine
from serve.vllm_loops import VllmEngine

pytestmark = pytest.mark.timeout(900)  # an engine starts in 15 s, and in minutes on a busy machine

SOON = 600.0
REQUESTS = [ActRequest(picture(31 * n), f"open mail {n}", ("back",) * (n % 3), seed=n) for n in range(6)]
STATES = [State(one.screen, one.task, one.history) for one in REQUESTS]
ACTIONS = [["back", "tap 0.50 0.50"], ["home"], [], ["back"], ["home", "wait"], ["type milk"]]


@pytest.fixture(scope="module")
def engine(llavas):
    made = VllmEngine(max_tokens=6)
    yield made
    made.close()


@pytest.fixture(scope="module")
def wanted():
    made = TransformersEngine(max_tokens=6, batch=8)
    yield made
    made.close()


def greedy(engine, model, requests=REQUESTS, deadline=SOON):
    return engine.sample(model, requests, samples=1, temperature=0.0, deadline=deadline)


def same(found, wanted):
    assert found.policy_version == wanted.policy_version
    assert [[text for text, _ in drawn] for drawn in found.states] == [
        [text for text, _ in drawn] for drawn in wanted.states
    ]


def processes(engine):
    return processes_of(engine._running)


def kill(engine):
    for process in processes(engine):
        process.kill()


def test_each_call_is_answered_by_the_model_that_it_names(engine, wanted, llavas):
    first = None
    for model in (llavas[0], llavas[1], llavas[0], llavas[2]):
        same(greedy(engine, model), greedy(wanted, model))
        first = first or processes(engine)
        assert processes(engine) == first, "another policy is published to the running engine"


def test_samples_differ_and_come_with_the_seed(engine, llavas):
    one, again = (engine.sample(llavas[0], REQUESTS, samples=8, temperature=1.0, deadline=SOON) for _ in range(2))
    assert [[text for text, _ in drawn] for drawn in one.states] == [
        [text for text, _ in drawn] for drawn in again.states
    ]
    assert all(len(drawn) == 8 for drawn in one.states)
    assert len({text for drawn in one.states for text, _ in drawn}) > 8
    assert all(logprob < 0 for drawn in one.states for _, logprob in drawn)


def test_more_prompts_than_a_step_takes_kill_nothing(engine, llavas):
    """vLLM 0.29 dies on a CPU when it cuts the prompt of a request with a seed in two."""
    many = [ActRequest(picture(n), f"open mail {n} " * 8, (), seed=n) for n in range(60)]
    greedy(engine, llavas[0])
    before = processes(engine)
    found = engine.sample(llavas[0], many, samples=2, temperature=1.0, deadline=SOON)
    assert [len(drawn) for drawn in found.states] == [2] * 60
    assert processes(engine) == before


def test_a_policy_can_act_with_it(engine, wanted, llavas):
    found, expected = (EnginePolicy(one, model=llavas[1], temperature=0.0, deadline=SOON) for one in (engine, wanted))
    assert [one.text for one in found.act(REQUESTS)] == [one.text for one in expected.act(REQUESTS)]
    assert {one.policy_version for one in found.act(REQUESTS)} == {"v1"}


def test_a_policy_whose_engine_was_killed_is_started_again(engine, wanted, llavas):
    greedy(engine, llavas[2])
    kill(engine)
    same(greedy(engine, llavas[2]), greedy(wanted, llavas[2]))


def test_features_are_those_of_transformers_and_have_their_fingerprint(engine, wanted, llavas):
    reader = Reader(llavas[1], -2, "last_and_action")
    found, expected = (one.embed(reader, STATES, ACTIONS, deadline=SOON) for one in (engine, wanted))
    assert found.fingerprint == expected.fingerprint
    for one, other in zip(found.states, expected.states, strict=True):
        assert one.state == pytest.approx(other.state, abs=1e-4)
        assert one.actions == pytest.approx(other.actions, abs=1e-4)


def test_a_reader_that_was_killed_is_started_again_and_one_bad_screen_harms_no_other(engine, wanted, llavas):
    reader = Reader(llavas[1], -2, "last_and_action")
    engine.embed(reader, STATES, ACTIONS, deadline=SOON)
    kill(engine)
    states = [STATES[0], State(b"no image", "open mail", ()), STATES[2]]
    found, expected = (one.embed(reader, states, ACTIONS[:3], deadline=SOON) for one in (engine, wanted))
    assert [isinstance(one, Failure) for one in found.states] == [False, True, False]
    assert found.states[1] == expected.states[1]
    assert found.states[0].actions == pytest.approx(expected.states[0].actions, abs=1e-4)


def test_after_features_a_policy_answers_again(engine, wanted, llavas):
    same(greedy(engine, llavas[0]), greedy(wanted, llavas[0]))


def test_what_cannot_be_served_is_a_typed_error(engine, llavas):
    with pytest.raises(ModelError, match="cannot"):
        greedy(engine, "no/such model")
    with pytest.raises(ConfigError, match=r"features\.layer=9"):
        engine.embed(Reader(llavas[0], 9, "last"), STATES, ACTIONS, deadline=SOON)
    with pytest.raises(DeadlineExceededError, match=r"vLLM did not answer in 0\.001 s"):
        greedy(engine, llavas[0], deadline=0.001)
    assert greedy(engine, llavas[0]).policy_version == "v0"
