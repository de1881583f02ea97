"""The policy engine in this process, and as a Ray actor that is killed."""

import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from digiq_ray.core.errors import DeadlineExceededError, ModelError, WorkerLostError
from digiq_ray.learner.models import cached_vlm
from digiq_ray.vlm.sampling import VlmPolicy
from serve.engine import PolicyEngine, RemotePolicy

SOON = 60.0


def expected(model: str, requests, temperature: float = 1.0):
    return VlmPolicy(cached_vlm(model), temperature=temperature, max_tokens=4, batch=8).act(requests)


def same(one, other) -> bool:
    """Whether two lists of results are the same, but for rounding in other batches."""
    pairs = list(zip(one, other, strict=True))
    return all(
        (a.text, a.policy_version) == (b.text, b.policy_version) and a.logprob == pytest.approx(b.logprob, abs=1e-4)
        for a, b in pairs
    )


@pytest.fixture
def engine():
    made = PolicyEngine(max_tokens=4, batch=8)
    yield made
    made.close()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_an_engine_acts_like_the_policy_itself(engine, models, requests, temperature):
    answer = engine.act(models[0], temperature, requests, SOON)
    assert same(answer, expected(models[0], requests, temperature))
    assert {result.policy_version for result in answer} == {"v0"}


def test_an_action_does_not_depend_on_who_shares_the_batch(engine, models, requests):
    together = engine.act(models[0], 1.0, requests, SOON)
    alone = [engine.act(models[0], 1.0, [request], SOON)[0] for request in requests]
    assert same(together, alone)


def test_each_request_is_answered_by_the_model_that_it_names(engine, models, requests):
    for model in (models[0], models[1], models[0], models[2], models[1]):
        assert same(engine.act(model, 1.0, requests, SOON), expected(model, requests))


def test_callers_of_three_models_at_once_are_all_answered_by_their_own(engine, models, requests):
    wanted = {model: expected(model, requests) for model in models}
    with ThreadPoolExecutor(9) as callers:
        asked = [models[number % 3] for number in range(45)]
        answers = list(callers.map(lambda model: engine.act(model, 1.0, requests, SOON), asked))
    assert all(same(answer, wanted[model]) for model, answer in zip(asked, answers, strict=True))


def test_a_model_that_cannot_be_loaded_troubles_only_who_asks_for_it(engine, models, requests):
    with pytest.raises(ModelError, match="cannot load"):
        engine.act("no/such model", 1.0, requests, SOON)
    assert same(engine.act(models[0], 1.0, requests, SOON), expected(models[0], requests))


def test_an_engine_answers_in_time_or_says_that_it_did_not(engine, models, requests, monkeypatch):
    loaded = threading.Event()
    monkeypatch.setattr("serve.engine.cached_vlm", lambda model: loaded.wait(SOON) and cached_vlm(model))
    with pytest.raises(DeadlineExceededError, match=r"the model did not answer 7 requests in 0\.05 s"):
        engine.act(models[0], 1.0, requests, 0.05)
    loaded.set()
    assert same(engine.act(models[0], 1.0, requests, SOON), expected(models[0], requests))


# On Ray.


@pytest.fixture(scope="module")
def engines():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    hire = ray.remote(PolicyEngine).options(num_cpus=0, max_concurrency=8, max_restarts=-1, max_task_retries=3)
    yield [hire.remote(max_tokens=4, batch=8) for _ in range(2)]
    ray.shutdown()


def remote(engines, model: str, deadline: float = SOON) -> RemotePolicy:
    return RemotePolicy(engines, model=model, temperature=1.0, deadline=deadline)


def pids(engines) -> list[int]:
    return ray.get([engine.pid.remote() for engine in engines], timeout=SOON)


def test_a_remote_policy_acts_like_a_local_one_also_after_its_engine_was_killed(engines, models, requests):
    first, second = remote(engines, models[0]), remote(engines, models[1])
    assert same(first.act(requests), expected(models[0], requests))
    assert same(second.act(requests), expected(models[1], requests))
    before = pids(engines)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert same(first.act(requests), expected(models[0], requests))
    assert same(second.act(requests), expected(models[1], requests))
    assert set(pids(engines)).isdisjoint(before)


def test_an_engine_that_is_too_slow_is_a_typed_error(engines, models, requests):
    with pytest.raises(DeadlineExceededError, match="did not answer"):
        remote(engines, models[2], deadline=0.0).act(requests)


def test_an_error_of_the_engine_comes_back_typed(engines, requests):
    with pytest.raises(ModelError, match="cannot load"):
        remote(engines, "no/such model").act(requests)


def test_callers_take_the_engines_in_turn(engines, models, requests):
    policies = [remote(engines, models[0]) for _ in range(4)]
    for policy in policies:
        policy.act(requests[:1])
    used = [policy._engine for policy in policies]
    assert used[0] is used[2]
    assert used[1] is used[3]
    assert used[0] is not used[1]


def test_an_engine_that_is_gone_for_good_is_a_typed_error(engines, models, requests):
    policy = remote(engines[:1], models[0])
    policy.act(requests[:1])
    ray.kill(engines[0])
    with pytest.raises(WorkerLostError, match="the policy engine died more often than a request is repeated"):
        policy.act(requests)
