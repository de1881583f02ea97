"""The Transformers engine in this process, and as a Ray actor that is killed; pipelines over such actors."""

import dataclasses
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

from digiq_ray.core.errors import DeadlineExceededError, InputError, ModelError, StoreError, WorkerLostError
from digiq_ray.learner.models import cached_vlm
from digiq_ray.loops.pipeline import run_pipeline
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.vlm.sampling import VlmPolicy
from serve.bulk import Done, SampleWork, Shard, make_shards
from serve.engine import EngineActor, EnginePolicy, RemoteEngine, open_engine

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


def act(engine, model: str, requests, temperature: float = 1.0, deadline: float = SOON):
    return EnginePolicy(engine, model=model, temperature=temperature, deadline=deadline).act(requests)


@pytest.fixture
def engine():
    made = open_engine("transformers", max_tokens=4, batch=8)
    yield made
    made.close()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_an_engine_acts_like_the_policy_itself(engine, models, requests, temperature):
    answer = act(engine, models[0], requests, temperature)
    assert same(answer, expected(models[0], requests, temperature))
    assert {result.policy_version for result in answer} == {"v0"}


def test_an_action_does_not_depend_on_who_shares_the_batch(engine, models, requests):
    together = act(engine, models[0], requests)
    alone = [act(engine, models[0], [request])[0] for request in requests]
    assert same(together, alone)


def test_each_request_is_answered_by_the_model_that_it_names(engine, models, requests):
    for model in (models[0], models[1], models[0], models[2], models[1]):
        assert same(act(engine, model, requests), expected(model, requests))


def test_callers_of_three_models_at_once_are_all_answered_by_their_own(engine, models, requests):
    wanted = {model: expected(model, requests) for model in models}
    with ThreadPoolExecutor(9) as callers:
        asked = [models[number % 3] for number in range(45)]
        answers = list(callers.map(lambda model: act(engine, model, requests), asked))
    assert all(same(answer, wanted[model]) for model, answer in zip(asked, answers, strict=True))


def test_a_model_that_cannot_be_loaded_troubles_only_who_asks_for_it(engine, models, requests):
    with pytest.raises(ModelError, match="cannot load"):
        act(engine, "no/such model", requests)
    assert same(act(engine, models[0], requests), expected(models[0], requests))


def test_an_engine_answers_in_time_or_says_that_it_did_not(engine, models, requests, monkeypatch):
    loaded = threading.Event()
    monkeypatch.setattr("serve.transformers_engine.cached_vlm", lambda model: loaded.wait(SOON) and cached_vlm(model))
    with pytest.raises(DeadlineExceededError, match=r"the model did not answer 7 requests in 0\.05 s"):
        act(engine, models[0], requests, deadline=0.05)
    loaded.set()
    assert same(act(engine, models[0], requests), expected(models[0], requests))


def test_a_screen_that_is_no_image_is_an_input_error_of_who_acts_on_it(engine, models, requests):
    with pytest.raises(InputError, match="image"):
        act(engine, models[0], [dataclasses.replace(requests[0], screen=b"no image")])
    assert same(act(engine, models[0], requests), expected(models[0], requests))


def test_a_prompt_that_is_too_long_is_an_input_error(engine, models, requests):
    with pytest.raises(InputError, match="the model takes 512"):
        act(engine, models[0], [dataclasses.replace(requests[0], task="shop " * 600)])


# On Ray.


@pytest.fixture(scope="module")
def engines():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    hire = ray.remote(EngineActor).options(num_cpus=0, max_concurrency=8, max_restarts=-1, max_task_retries=3)
    yield [hire.remote("transformers", max_tokens=4, batch=8) for _ in range(2)]
    ray.shutdown()


def remote(engines, model: str, deadline: float = SOON) -> EnginePolicy:
    engine = RemoteEngine.in_turn(engines, deadline=SOON)
    return EnginePolicy(engine, model=model, temperature=1.0, deadline=deadline)


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


def test_callers_take_the_engines_in_turn(engines, models):
    used = [remote(engines, models[0])._engine._actor for _ in range(4)]
    assert used[0] is used[2]
    assert used[1] is used[3]
    assert used[0] is not used[1]


# Pipelines.


def sample_work(episodes, model: str, name: str) -> SampleWork:
    path = CandidateStore.create(episodes.path.parent / name).path
    return SampleWork(
        episodes=episodes.path, candidates=path, model=model, k=6, temperature=1.0, batch=2, seed=0, deadline=SOON
    )


def pipeline(work, shards, engines, seen=None) -> Done:
    return run_pipeline(work, shards, engines, seen or (lambda done, total: None), stall=SOON)


def rows_of(work: SampleWork) -> list[tuple]:
    columns = ["episode_id", "step", "action", "multiplicity"]
    return [tuple(row.values()) for row in CandidateStore(work.candidates).table(columns).to_pylist()]


def test_a_pipeline_does_every_shard_once_and_tells_how_far_it_is(engines, engine, episodes, executed, models):
    shards, seen = make_shards(list(executed), 1), []
    alone, piped = (sample_work(episodes, models[0], name) for name in ("alone", "piped"))
    for shard in shards:
        alone(shard, engine)
    done = pipeline(piped, shards, engines, lambda *progress: seen.append(progress))
    assert done == Done(sum(map(len, executed.values())))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert rows_of(piped) == rows_of(alone)
    assert pipeline(piped, shards, engines) == Done(), "a shard that is there is not done again"
    assert pipeline(piped, [], engines) == Done()


def test_a_pipeline_goes_on_when_its_engines_are_killed(engines, episodes, executed, models):
    work, shards = sample_work(episodes, models[1], "killed"), make_shards(list(executed), 1)
    whole = sample_work(episodes, models[1], "whole")
    pipeline(whole, shards, engines)
    killed = set()

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.update(pids(engines))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    assert pipeline(work, shards, engines, kill) == Done(sum(map(len, executed.values())))
    assert rows_of(work) == rows_of(whole)


def test_what_a_pipeline_meets_is_a_typed_error(engines, episodes, executed, models, tmp_path):
    work = sample_work(episodes, "no/such model", "none")
    with pytest.raises(ModelError, match=r"^cannot load .*no/such model") as raised:
        pipeline(work, make_shards(list(executed), 1), engines)
    assert type(raised.value) is ModelError
    lost = dataclasses.replace(sample_work(episodes, models[0], "lost"), episodes=tmp_path / "nowhere")
    with pytest.raises(StoreError, match="nowhere"):
        pipeline(lost, [Shard(name="a", episode_ids=("cut",))], engines)


def test_a_pipeline_that_stands_still_is_given_up(engines):
    def stuck(shard, engine) -> Done:
        time.sleep(SOON)
        return Done()

    with pytest.raises(DeadlineExceededError, match="no shard was finished for 3 s"):
        run_pipeline(stuck, [Shard(name="a", episode_ids=())], engines, lambda done, total: None, stall=3.0)


def test_an_engine_that_is_gone_for_good_is_a_typed_error(engines, models, requests):
    policy = remote(engines[:1], models[0])
    policy.act(requests[:1])
    ray.kill(engines[0])
    with pytest.raises(WorkerLostError, match="an engine died more often than a request is repeated"):
        policy.act(requests)
