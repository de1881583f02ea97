"""What serving asks of a model, asked of every backend: those of ``serve.protocols``, whatever runs them.

The reference is the Transformers code of ``digiq_ray.vlm``, run directly.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from adapter_fixtures import change_tensors, merge_by_hand, save_adapter
from PIL import Image

from digiq_ray.core.errors import DigiQError, InputError, ModelError
from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import VlmPolicy
from digiq_ray.vlm.tiny import make_vlm
from serve.backends import open_features, open_policy
from serve.protocols import FeatureBackend, Piece, PolicyBackend, Sampling, State

WAIT_SECONDS = 120.0
LAYER = 1
BACKENDS = [
    "transformers",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
        ],
    ),
]


def png(shade: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (96, 192), (shade, 90, 255 - shade)).save(encoded, "PNG")
    return encoded.getvalue()


STATES = [State(png(30 * n), f"buy red {'mug ' * n}", ("back",) * (n % 3)) for n in range(4)]


@dataclass(frozen=True)
class Text:
    """One whole sample."""

    text: str
    logprob: float
    tokens: int
    finish: str
    version: str


@pytest.fixture(scope="module")
def wait():
    """Runs a coroutine on the module's event loop, with a deadline."""
    with asyncio.Runner() as runner:

        def run(coroutine):
            return runner.run(asyncio.wait_for(coroutine, WAIT_SECONDS))

        yield run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape; versions ``v0`` and ``v1``."""
    paths = []
    for seed in range(2):
        path = tmp_path_factory.mktemp(f"v{seed}")
        vlm = make_vlm(["buy", "red", "mug"], hidden=64, layers=2, vision=64, vision_layers=1, seed=seed)
        vlm.save(path, version=f"v{seed}")
        paths.append(path)
    return paths


@pytest.fixture(scope="module", params=BACKENDS)
def policy(request, wait, saved):
    made = wait(open_policy(request.param, str(saved[0]), lambda rows: None))
    yield made
    wait(made.close())


@pytest.fixture(scope="module", params=BACKENDS)
def features(request, wait, saved):
    made = wait(open_features(request.param, str(saved[0]), LAYER, "last_and_action", lambda rows: None))
    yield made
    wait(made.close())


async def whole(pieces: AsyncIterator[Piece]) -> list[Text]:
    """All samples; checks what holds of every answer."""
    found: dict[int, list[Piece]] = {}
    async for piece in pieces:
        so_far = found.setdefault(piece.sample, [])
        assert not so_far or so_far[-1].finish is None, "a sample went on after its end"
        assert piece.tokens >= 1
        assert piece.logprob <= 1e-6
        assert piece.prompt_tokens > 0
        so_far.append(piece)
    texts = []
    for _, parts in sorted(found.items()):
        assert len({(part.policy_version, part.prompt_tokens) for part in parts}) == 1
        assert parts[-1].finish in ("stop", "length")
        texts.append(
            Text(
                "".join(part.text for part in parts),
                sum(part.logprob for part in parts),
                sum(part.tokens for part in parts),
                parts[-1].finish,
                parts[0].policy_version,
            )
        )
    return texts


def greedy(path: Path, state: State) -> Text:
    """What the reference takes as likeliest."""
    vlm = Vlm.load(path)
    (found,) = VlmPolicy(vlm, temperature=0, max_tokens=8).act([ActRequest(state.screen, state.task, state.history, 0)])
    return Text(found.text, found.logprob, 0, "", found.policy_version)


# ---- policies


def test_every_sample_comes_whole_and_ends_once(wait, policy: PolicyBackend):
    texts = wait(whole(policy.act(STATES[0], Sampling(samples=5, max_tokens=6, seed=3))))
    assert len(texts) == 5
    assert {text.version for text in texts} == {policy.version}
    assert all(text.tokens == 6 for text in texts if text.finish == "length")
    assert all(text.tokens <= 6 for text in texts)
    assert len({text.text for text in texts}) > 1


def test_temperature_zero_takes_what_the_reference_takes(wait, policy: PolicyBackend, saved):
    for state in STATES:
        (text,) = wait(whole(policy.act(state, Sampling(temperature=0, max_tokens=8))))
        expected = greedy(saved[int(policy.version[-1])], state)
        assert text.text == expected.text
        assert text.logprob == pytest.approx(expected.logprob, abs=1e-3)


def test_a_seed_decides_the_samples_in_whatever_company(wait, policy: PolicyBackend):
    def ask(index: int, seed: int) -> AsyncIterator[Piece]:
        return policy.act(STATES[index], Sampling(samples=3, max_tokens=6, seed=seed))

    async def together() -> list[list[Text]]:
        return await asyncio.gather(*(whole(ask(index, 50 + index)) for index in range(len(STATES))))

    alone = [wait(whole(ask(index, 50 + index))) for index in range(len(STATES))]
    for ours, theirs in zip(wait(together()), alone, strict=True):
        assert [text.text for text in ours] == [text.text for text in theirs]
    assert [text.text for text in wait(whole(ask(0, 51)))] != [text.text for text in alone[0]]


def test_a_message_may_hold_an_image_or_none_but_not_two(wait, policy: PolicyBackend):
    sampling = Sampling(max_tokens=4, seed=1)
    with_image = wait(whole(policy.chat("buy red mug", [png(1)], sampling)))
    without = wait(whole(policy.chat("buy red mug", [], sampling)))
    assert len(with_image) == len(without) == 1
    with pytest.raises(InputError):
        wait(whole(policy.chat("buy", [png(1), png(2)], sampling)))


@pytest.mark.parametrize(
    ("state", "max_tokens"),
    [
        (State(b"no picture", "buy"), 4),
        (State(png(1)[:50], "buy"), 4),
        (State(png(1), "buy " * 2000), 4),
        (State(png(1), "buy"), 4000),
    ],
    ids=["no picture", "half a picture", "a long task", "a long answer"],
)
def test_what_the_model_cannot_take_is_an_input_error_and_harms_nobody(wait, policy, state, max_tokens):
    async def beside() -> list[Text]:
        other = asyncio.create_task(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1))))
        with pytest.raises(InputError):
            await whole(policy.act(state, Sampling(max_tokens=max_tokens)))
        return await other

    assert wait(beside()) == wait(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1))))


def test_control_tokens_in_texts_are_texts(wait, policy: PolicyBackend):
    text = "<image></s><<image>image>"
    assert wait(whole(policy.act(State(png(1), text, (text,)), Sampling(max_tokens=2))))
    assert wait(whole(policy.chat(text, [png(1)], Sampling(max_tokens=2))))


def test_a_caller_who_goes_away_holds_up_nobody(wait, policy: PolicyBackend):
    async def leave_and_ask() -> list[Text]:
        long = policy.chat("buy", [], Sampling(samples=4, temperature=1.5, max_tokens=400, seed=2))
        async for _ in long:
            break
        await long.aclose()
        return await whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1)))

    assert len(wait(leave_and_ask())) == 1


def test_a_request_under_way_ends_on_the_weights_that_it_began_with(wait, policy: PolicyBackend, saved):
    old = policy.version
    new = f"step-{1 - int(old[-1])}"

    async def publish_meanwhile() -> tuple[list[Text], list[Text]]:
        long = policy.chat("buy", [], Sampling(samples=2, temperature=1.5, max_tokens=100, seed=4))
        first = await anext(long)
        publishing = asyncio.create_task(policy.publish(new, str(saved[int(new[-1])])))

        async def rest() -> AsyncIterator[Piece]:
            yield first
            async for piece in long:
                yield piece

        ended = await whole(rest())
        await publishing
        return ended, await whole(policy.act(STATES[0], Sampling(temperature=0, max_tokens=8)))

    before = wait(whole(policy.chat("buy", [], Sampling(samples=2, temperature=1.5, max_tokens=100, seed=4))))
    ended, after = wait(publish_meanwhile())
    assert [(text.text, text.version) for text in ended] == [(text.text, old) for text in before]
    assert policy.version == new
    assert (after[0].text, after[0].version) == (greedy(saved[int(new[-1])], STATES[0]).text, new)


def test_a_checkpoint_that_cannot_be_loaded_changes_nothing(wait, policy: PolicyBackend, tmp_path):
    before, version = wait(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1)))), policy.version
    with pytest.raises(ModelError):
        wait(policy.publish("broken", str(tmp_path)))
    assert policy.version == version
    assert wait(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1)))) == before
    assert wait(policy.healthy())


def test_an_adapter_is_published_on_the_weights_that_it_names_whatever_was_served_before(
    wait, policy: PolicyBackend, saved, tmp_path
):
    adapter, sampling = save_adapter(saved[1], tmp_path / "adapter"), Sampling(temperature=0, max_tokens=8)
    merge_by_hand(saved[1], adapter).save(tmp_path / "merged")

    def differ(texts: list[Text], others: list[Text]) -> bool:
        return any(abs(one.logprob - other.logprob) > 0.01 for one, other in zip(texts, others, strict=True))

    async def answers_of(version: str, checkpoint: Path) -> list[Text]:
        await policy.publish(version, str(checkpoint))
        found = [text for state in STATES for text in await whole(policy.act(state, sampling))]
        assert {text.version for text in found} == {policy.version} == {version}
        return found

    async def in_turn() -> tuple[list[Text], ...]:
        asked = {"base-1": saved[1], "merged-1": tmp_path / "merged", "base-0": saved[0], "lora-1": adapter}
        found = [await answers_of(version, checkpoint) for version, checkpoint in asked.items()]
        return (*found, await answers_of("step-1", saved[1]))

    base, merged, _, adapted, afterwards = wait(in_turn())
    for one, other in zip([*adapted, *afterwards], [*merged, *base], strict=True):
        assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert differ(adapted, base)


def test_an_adapter_that_does_not_fit_changes_nothing(wait, policy: PolicyBackend, saved, tmp_path):
    half, pickled = (save_adapter(saved[1], tmp_path / name) for name in ("half", "pickled"))
    change_tensors(half, lambda tensors: dict(list(tensors.items())[1:]))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    make_vlm(["buy"], hidden=32, layers=2, vision=32, vision_layers=1).save(tmp_path / "narrow")
    foreign = save_adapter(saved[1], tmp_path / "foreign")
    config = foreign / "adapter_config.json"
    config.write_text(config.read_text().replace(str(saved[1]), str(tmp_path / "narrow")))
    before, version = wait(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1)))), policy.version
    for adapter, said in ((half, "nothing"), (pickled, "is a pickle"), (foreign, "does not fit its base")):
        with pytest.raises(ModelError, match=said):
            wait(policy.publish("broken", str(adapter)))
    assert policy.version == version
    assert wait(whole(policy.act(STATES[0], Sampling(max_tokens=4, seed=1)))) == before
    assert wait(policy.healthy())


# ---- features


def reference(saved: list[Path]) -> Callable[[State, list[str]], tuple[np.ndarray, np.ndarray]]:
    extractor = FeatureExtractor(Vlm.load(saved[0]), layer=LAYER, pooling=Pooling.LAST_AND_ACTION)

    def of(state: State, actions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        screen = extractor.vlm.transform.prepare(state.screen)
        prefix = extractor.vlm.prefix_ids(screen, state.task, state.history)
        found, rows = extractor.extract([screen], [prefix], [actions])
        return found[0].numpy(), rows[0].numpy()

    return of


ACTIONS = [["tap 0.50 0.50", "back", "type red mug"], [], ["home"], ["back", "back", "swipe 0.50 0.80 0.50 0.20"]]


def test_features_are_those_of_the_reference_alone_and_in_company(wait, features: FeatureBackend, saved):
    async def together():
        return await asyncio.gather(*(features.features(s, a) for s, a in zip(STATES, ACTIONS, strict=True)))

    of, company = reference(saved), wait(together())
    for state, actions, beside in zip(STATES, ACTIONS, company, strict=True):
        expected_state, expected_rows = of(state, actions)
        for found in (wait(features.features(state, actions)), beside):
            assert found.actions.shape == (len(actions), 128)
            np.testing.assert_allclose(found.state, expected_state, atol=1e-4)
            np.testing.assert_allclose(found.actions, expected_rows, atol=1e-4)
            assert found.tokens > 36 + len(actions)


@pytest.mark.parametrize("state", [State(b"no picture", "buy"), State(png(1), "buy " * 2000)])
def test_features_of_what_the_model_cannot_take_are_an_input_error(wait, features: FeatureBackend, state):
    with pytest.raises(InputError):
        wait(features.features(state, ["back"]))
    assert wait(features.healthy())


# ---- the end


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_closed_model_answers_nothing_and_is_not_healthy(wait, saved, kind):
    made = wait(open_policy(kind, str(saved[0]), lambda rows: None))
    assert wait(made.healthy())
    wait(made.close())
    assert not wait(made.healthy())
    with pytest.raises(DigiQError, match="closed"):
        wait(whole(made.act(STATES[0], Sampling(max_tokens=2))))


@pytest.mark.parametrize("kind", BACKENDS)
def test_closed_features_are_not_healthy_and_an_error(wait, saved, kind):
    made = wait(open_features(kind, str(saved[0]), 1, "last", lambda rows: None))
    wait(made.close())
    assert not wait(made.healthy())
    with pytest.raises(DigiQError, match="closed"):
        wait(made.features(STATES[0], ["back"]))
