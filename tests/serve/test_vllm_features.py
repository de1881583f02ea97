"""Features from vLLM are those that Transformers computes: three families, three layers, with and without the cache."""

import asyncio

import numpy as np
import pytest
from vllm_testing import FAMILIES, LAYERS, in_process, need_vllm, picture, random_vlm

from digiq_ray.core.errors import ConfigError, InputError
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.model import Vlm
from serve.protocols import State
from serve.vllm_features import VllmFeatures
from serve.vllm_start import EngineOptions, feature_arguments

pytestmark = pytest.mark.timeout(900)  # an engine starts in 15 s, and in minutes on a busy machine

ACTIONS = ("tap 0.50 0.30", "back", "type a text so long that it fills more than one block of the prefix cache", "home")
STATES = tuple(State(picture(17 * n), f"open mail {n}", ("back",) * n) for n in range(3))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request, tmp_path_factory):
    need_vllm()
    path = tmp_path_factory.mktemp(request.param)
    random_vlm(request.param).save(path)
    return path


def options(**more):
    return EngineOptions(dtype="float32", max_model_len=512, max_num_seqs=16, cache_bytes=1 << 28, **more)


def by_transformers(checkpoint, layer, pooling=Pooling.LAST_AND_ACTION):
    extractor = FeatureExtractor(Vlm.load(checkpoint), layer=layer, pooling=pooling)
    vlm = extractor.vlm
    found = []
    for state in STATES:
        screen = vlm.transform.prepare(state.screen)
        prefix = vlm.prefix_ids(screen, state.task, state.history)
        states, (actions,) = extractor.extract([screen], [prefix], [list(ACTIONS)])
        found.append((states[0].numpy(), actions.numpy()))
    return found


def close(got, want):
    np.testing.assert_allclose(got.state, want[0], atol=1e-4, rtol=0)
    np.testing.assert_allclose(got.actions, want[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [1, 2, LAYERS])
@pytest.mark.parametrize("cached", [True, False])
def test_features_are_those_of_transformers(checkpoint, layer, cached):
    want = by_transformers(checkpoint, layer)
    outline = Vlm.outline(checkpoint)
    with in_process(
        lambda: feature_arguments(str(checkpoint), outline, layer, options(prefix_caching=cached))
    ) as engine:
        both = VllmFeatures(outline, engine, pooling=Pooling.LAST_AND_ACTION)

        async def ask():
            alone = await both.features(STATES[0], ACTIONS[:1])
            together = await asyncio.gather(*(both.features(state, ACTIONS) for state in STATES))
            return alone, together, await both.features(STATES[0], ACTIONS[::-1])

        alone, together, again = asyncio.run(ask())
    close(alone, (want[0][0], want[0][1][:1]))
    for got, expected in zip(together, want, strict=True):
        close(got, expected)
    close(again, (want[0][0], want[0][1][::-1]))
    assert (max(engine.cached_tokens.values()) > 0) is cached


def test_the_mean_over_an_action_is_right_when_the_cache_holds_some_of_it(tmp_path):
    need_vllm()
    random_vlm("llava").save(tmp_path)
    outline = Vlm.outline(tmp_path)
    with in_process(lambda: feature_arguments(str(tmp_path), outline, 2, options())) as engine:
        both = VllmFeatures(outline, engine, pooling=Pooling.LAST_AND_ACTION)

        async def ask():
            return [await both.features(STATES[0], ACTIONS) for _ in range(2)]

        first, second = asyncio.run(ask())
        asked = len(engine.cached_tokens)
    want = by_transformers(tmp_path, 2)[0]
    close(first, want)
    close(second, want)
    assert asked > 2 * (1 + len(ACTIONS))


def test_pooling_the_last_token_alone_leaves_the_mean_out(tmp_path):
    need_vllm()
    random_vlm("llava").save(tmp_path)
    outline = Vlm.outline(tmp_path)
    with in_process(lambda: feature_arguments(str(tmp_path), outline, -2, options())) as engine:
        last = VllmFeatures(outline, engine, pooling=Pooling.LAST)
        got = asyncio.run(last.features(STATES[0], ACTIONS))
        none = asyncio.run(last.features(STATES[0], ()))
    close(got, by_transformers(tmp_path, -2, Pooling.LAST)[0])
    assert none.actions.shape == (0, outline.hidden_size)
    assert got.tokens > none.tokens > 0


def test_every_row_of_a_tall_screen_reaches_the_features(tmp_path):
    need_vllm()
    random_vlm("llava").save(tmp_path)
    outline = Vlm.outline(tmp_path)
    tall = {"width": 60, "height": 240}
    with in_process(lambda: feature_arguments(str(tmp_path), outline, 2, options())) as engine:
        both = VllmFeatures(outline, engine, pooling=Pooling.LAST)

        async def ask():
            plain, *marked = [
                await both.features(State(picture(**tall, mark=row), "open"), ()) for row in (None, 0, 239)
            ]
            return [float(np.abs(one.state - plain.state).max()) for one in marked]

        assert min(asyncio.run(ask())) > 1e-4


def test_prompts_that_do_not_fit_and_broken_screens_are_refused(tmp_path):
    need_vllm()
    random_vlm("llava").save(tmp_path)
    outline = Vlm.outline(tmp_path)
    with in_process(lambda: feature_arguments(str(tmp_path), outline, 1, options())) as engine:
        both = VllmFeatures(outline, engine, pooling=Pooling.LAST)
        with pytest.raises(InputError, match="the engine takes 512"):
            asyncio.run(both.features(State(picture(), "open"), ("type " + "long " * 200,)))
        with pytest.raises(InputError, match="not a whole image"):
            asyncio.run(both.features(State(b"no picture", "open"), ()))
        assert asyncio.run(both.features(State(picture(), "open <image> </s>"), ("tap <image>",))).state.any()


@pytest.mark.parametrize("layer", [0, LAYERS + 1, -LAYERS - 1])
def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path, layer):
    need_vllm()
    random_vlm("llava").save(tmp_path)
    with pytest.raises(ConfigError, match=f"layers 1 to {LAYERS}"):
        feature_arguments(str(tmp_path), Vlm.outline(tmp_path), layer, options())
