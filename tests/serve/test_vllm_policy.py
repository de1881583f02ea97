"""A policy on vLLM samples what Transformers would, and its weights can be replaced while it answers.

One engine, in processes of its own as in production, serves all tests of this file; its end is the last test.
"""

import asyncio
import math
import time

import numpy as np
import pytest
import torch
from adapter_fixtures import merge_by_hand, save_adapter
from hub_fixtures import cached_model
from vllm_testing import picture, processes_of

from digiq_ray.core.errors import InputError, ModelError, WorkerLostError
from digiq_ray.vlm.batching import run_prefix
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import sample
from serve.protocols import Sampling, State
from serve.transformers_backend import TransformersPolicy
from serve.vllm_policy import VllmPolicy
from serve.vllm_start import EngineOptions

pytestmark = pytest.mark.timeout(900)  # an engine starts in 15 s, and in minutes on a busy machine

STATES = tuple(State(picture(31 * n), f"open mail {n}", ("back",) * (n % 3)) for n in range(8))
GREEDY = Sampling(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def policy(llavas, runner):
    options = EngineOptions(dtype="float32", max_model_len=512, max_num_seqs=64, cache_bytes=1 << 28)
    policy = VllmPolicy.start(llavas[0], options=options)
    yield policy
    runner.run(policy.close())


async def answers(pieces):
    """Text, log-probability, tokens, end, and the versions that wrote it, of each sample."""
    found = {}
    async for piece in pieces:
        text, logprob, tokens, _, versions = found.get(piece.sample, ("", 0.0, 0, None, ()))
        versions = (*versions, piece.policy_version)
        found[piece.sample] = (
            text + piece.text,
            logprob + piece.logprob,
            tokens + piece.tokens,
            piece.finish,
            versions,
        )
    return [found[index] for index in sorted(found)]


def same(got, want):
    for one, other in zip(got, want, strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-3)
        assert one[2:4] == other[2:4]


def probabilities(checkpoint, state, temperature):
    vlm = Vlm.load(checkpoint)
    screen = vlm.transform.prepare(state.screen)
    prompt = [*vlm.prefix_ids(screen, state.task, state.history), *vlm.act_ids()]
    with torch.inference_mode():
        logits = vlm.logits(run_prefix(vlm, [screen], [prompt]).last)[0].double()
    return torch.softmax(logits / temperature, -1).numpy()


def deviation(counts, expected):
    """How many standard deviations a chi-square statistic lies above its mean (Wilson and Hilferty)."""
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    freedom = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def test_4096_samples_have_the_distribution_that_transformers_gives(policy, llavas, runner):
    state, temperature = STATES[0], 0.7
    expected = probabilities(llavas[0], state, temperature)

    async def draw():
        asked = [
            answers(policy.act(state, Sampling(samples=256, temperature=temperature, max_tokens=1, seed=seed)))
            for seed in range(16)
        ]
        return [one for part in await asyncio.gather(*asked) for one in part]

    logprobs = np.array([one[1] for one in runner.run(draw())])
    distances = np.abs(logprobs[:, None] - np.log(expected)[None])
    assert len(logprobs) == 4096
    assert distances.min(1).max() < 1e-3  # each is the log-probability of some token, at the sampling temperature
    counts = np.bincount(distances.argmin(1), minlength=len(expected))
    assert deviation(counts, 4096 * expected) < 4
    assert deviation(counts, 4096 * probabilities(llavas[0], state, 1.0)) > 6


def test_the_likeliest_tokens_are_those_of_transformers(policy, llavas, runner):
    vlm = Vlm.load(llavas[0])
    screens = [vlm.transform.prepare(state.screen) for state in STATES]
    prefixes = [vlm.prefix_ids(s, x.task, x.history) for s, x in zip(screens, STATES, strict=True)]
    want = sample(vlm, screens, prefixes, range(len(STATES)), temperature=0.0, max_tokens=6)

    async def ask():
        return await asyncio.gather(*(answers(policy.act(state, GREEDY)) for state in STATES))

    for ((text, logprob, _, _, versions),), ((expected, total),) in zip(runner.run(ask()), want, strict=True):
        assert text.strip() == expected
        assert logprob == pytest.approx(total, abs=1e-3)
        assert set(versions) == {policy.version}


@pytest.mark.parametrize("screens", [(), (picture(7),)])
def test_messages_are_answered_as_by_the_other_backend(policy, llavas, runner, screens):
    other = TransformersPolicy(llavas[0], device="cpu")
    text = "what is <image> on </s> the screen?"

    async def ask():
        found = [await answers(backend.chat(text, screens, GREEDY)) for backend in (policy, other)]
        await other.close()
        return found

    same(*runner.run(ask()))


def test_a_seed_decides_the_samples(policy, runner):
    async def draw(seed):
        found = await answers(policy.act(STATES[1], Sampling(samples=4, max_tokens=8, seed=seed)))
        return [one[0] for one in found]

    first, again, next_seed = (runner.run(draw(seed)) for seed in (5, 5, 6))
    assert first == again
    assert not set(first) & set(next_seed)


def test_wrong_requests_are_refused_in_one_line(policy, runner):
    async def ask(pieces):
        return await answers(pieces)

    with pytest.raises(InputError, match="the engine takes 512"):
        runner.run(ask(policy.act(STATES[0], Sampling(max_tokens=500))))
    with pytest.raises(InputError, match="one image, not 2"):
        runner.run(ask(policy.chat("x", [picture(), picture()], GREEDY)))
    with pytest.raises(InputError, match="not a whole image"):
        runner.run(ask(policy.act(State(b"?", "x"), GREEDY)))


def test_a_checkpoint_of_another_shape_is_refused_and_the_policy_goes_on(policy, llavas, runner, tmp_path):
    vlm = Vlm.load(llavas[0])
    vlm.model.model.multi_modal_projector.linear_1.bias = None
    vlm.save(tmp_path)
    before = policy.version
    with pytest.raises(ModelError, match=r"linear_1\.bias is absent"):
        runner.run(policy.publish("other", str(tmp_path)))
    with pytest.raises(ModelError, match="no such directory"):
        runner.run(policy.publish("other", str(tmp_path / "nothing")))
    assert policy.version == before
    assert runner.run(answers(policy.act(STATES[0], GREEDY)))


def test_a_model_is_published_by_its_id_on_the_hub(policy, llavas, runner, tmp_path, monkeypatch):
    cached_model(monkeypatch, tmp_path, "some/model", llavas[1])
    before = policy.version
    runner.run(policy.publish("by id", "some/model"))
    by_id = runner.run(answers(policy.act(STATES[0], GREEDY)))
    runner.run(policy.publish("by path", llavas[1]))
    by_path = runner.run(answers(policy.act(STATES[0], GREEDY)))
    assert [one[:3] for one in by_id] == [one[:3] for one in by_path]
    assert set(by_id[0][-1]) == {"by id"}
    runner.run(policy.publish(before, llavas[0]))


def test_twenty_versions_under_load_and_each_answer_is_that_of_the_version_it_names(policy, llavas, runner, tmp_path):
    adapter = save_adapter(llavas[1], tmp_path / "adapter")
    merge_by_hand(llavas[1], adapter).save(tmp_path / "merged")
    published, expected = [*llavas, str(adapter)], []
    for checkpoint in (*llavas, tmp_path / "merged"):
        other = TransformersPolicy(str(checkpoint), device="cpu")

        async def ask(other=other):
            found = await asyncio.gather(*(answers(other.act(state, GREEDY)) for state in STATES))
            await other.close()
            return found

        expected.append(runner.run(ask()))
    pauses = []

    async def client(number, done, seen):
        while not done.is_set():
            (answer,) = await answers(policy.act(STATES[number], GREEDY))
            seen.append((number, answer))

    async def under_load():
        await policy.publish("0:start", llavas[0])
        done, seen = asyncio.Event(), []
        async with asyncio.TaskGroup() as clients:
            for number in range(len(STATES)):
                clients.create_task(client(number, done, seen))
            for count in range(20):
                which = (count + 1) % len(published)
                await policy.publish(f"{which}:{count}", published[which])
                pauses.append(policy.pause_seconds)
            done.set()
        return seen

    seen = runner.run(under_load())
    for number, answer in seen:
        (version,) = set(answer[4])
        same([answer], expected[int(version.split(":")[0])][number])
    assert len({answer[4][0] for _, answer in seen}) > 10
    assert {answer[0] for group in expected for (answer,) in group} >= {answer[0] for _, answer in seen}
    print(f"pauses: median {np.median(pauses):.3f} s, most {max(pauses):.3f} s; {len(seen)} answers")


def test_a_killed_engine_is_an_error_with_a_name_and_not_a_hang(policy, runner):
    assert runner.run(policy.healthy())

    async def kill():
        waiting = asyncio.create_task(answers(policy.act(STATES[0], Sampling(samples=8, max_tokens=300))))
        await asyncio.sleep(0.2)
        for process in processes_of(policy):
            process.kill()
        begun = time.monotonic()
        with pytest.raises(WorkerLostError, match="the policy engine has died"):
            await waiting
        with pytest.raises(WorkerLostError):
            await answers(policy.act(STATES[0], GREEDY))
        return time.monotonic() - begun

    assert runner.run(kill()) < 30
    assert not runner.run(policy.healthy())
