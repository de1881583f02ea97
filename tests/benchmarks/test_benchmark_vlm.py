"""The VLM benchmark's models have the size that it names, its ways do the same work, its ratios have their names.

Without vLLM: the engine in its place is that of Transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import vlm
from benchmarks._vlm_models import SHAPES, Shape, actions, parameters, random_vlm, requests, save_random
from benchmarks.report import Spread
from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.features import Pooling
from digiq_ray.vlm.model import Vlm
from serve.protocols import Features, Reader, State
from serve.transformers_engine import TransformersEngine

SMALL = Shape(vision=64, vision_layers=1, hidden=64, layers=2, head=32)
LAYER = 1


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save_random(SMALL, place, torch.float32)
    return place


@pytest.fixture(scope="module")
def batched(model: Path) -> vlm.Batched:
    return vlm.Batched(model, LAYER, "cpu", torch.float32)


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    made = TransformersEngine(max_tokens=4, batch=8)
    yield made
    made.close()


@pytest.mark.parametrize(("name", "least", "most"), [("mid", 20e6, 60e6), ("2b", 1e9, 2e9), ("7b", 5e9, 8e9)])
def test_a_shape_has_its_size_and_the_image_tokens_of_llava(name: str, least: float, most: float) -> None:
    with torch.device("meta"):  # shapes without weights
        made = random_vlm(SHAPES[name])
    assert least < parameters(made) < most
    (request,) = requests(1, 0)
    prompt = made.prefix_ids(made.transform.prepare(request.screen), request.task, request.history)
    assert prompt.count(made.model.config.image_token_id) == 576
    made.check_length(len(prompt) + len(made.act_ids()) + vlm.TOKENS)


def test_a_saved_model_has_the_dtype_and_the_parameters_that_are_said(tmp_path: Path) -> None:
    count = save_random(SMALL, tmp_path, torch.bfloat16)
    found = Vlm.load(tmp_path, dtype=torch.bfloat16)
    assert parameters(found) == count
    assert {weight.dtype for weight in found.model.parameters()} == {torch.bfloat16}


def test_no_two_states_have_a_screen_or_a_task_in_common_and_each_can_be_made_again() -> None:
    made = requests(4, 0) + requests(4, 4)
    assert len({one.screen for one in made}) == len({one.task for one in made}) == 8
    assert requests(2, 3) == made[3:5]


def test_actions_differ() -> None:
    texts = actions(64, 5)
    assert len(set(texts)) == 64
    assert texts == actions(64, 5) != actions(64, 6)


def test_whole_prompts_give_the_features_that_the_engine_gives(
    batched: vlm.Batched, engine: TransformersEngine, model: Path
) -> None:
    (request,), texts = requests(1, 3), actions(3, 3)
    state = State(request.screen, request.task, request.history)
    embedded = engine.embed(Reader(str(model), LAYER, Pooling.LAST), [state], [texts], deadline=60.0)
    (wanted,) = embedded.states
    assert isinstance(wanted, Features)
    found = batched.features(request, texts)
    np.testing.assert_allclose(found, [wanted.state, *wanted.actions], atol=1e-4)


def test_whole_prompts_give_as_many_candidates_as_asked(batched: vlm.Batched) -> None:
    assert len(batched.candidates(requests(1, 0)[0], 3, 2)) == 3


def test_a_stream_repeats_nothing_and_counts_rows() -> None:
    stream, seen = vlm.Stream(vlm.Work("features", 5, 2)), set()

    def run(asked: Sequence[ActRequest], texts: Sequence[Sequence[str]]) -> None:
        assert [len(row) for row in texts] == [5, 5]
        seen.update(one.screen for one in asked)

    assert min(stream.time(run), stream.time(run)) > 0
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["features", "candidates"])
def test_every_way_is_measured(name: str, batched: vlm.Batched, engine: TransformersEngine, model: Path) -> None:
    work = vlm.Work(name, 2, 1)
    ways = vlm.ways_of(work, batched, engine, engine, str(model), LAYER)
    found = {way: [measure()] for way, measure in ways.items()}
    assert {way.partition(",")[0] for way in found} == {"batched", "prefix", "vllm"}
    assert min(min(speeds) for speeds in found.values()) > 0
    assert len(vlm.ratios_of(work, found)) == 3


def test_the_better_number_of_threads_counts_and_the_ratios_have_their_names() -> None:
    found = {
        "batched, 1 threads": [1.0, 1.0, 9.0],
        "batched, 2 threads": [2.0, 2.0, 2.0],
        "prefix, 1 threads": [8.0, 6.0, 8.0],
        "vllm": [16.0, 12.0, 24.0],
    }
    assert vlm.ratios_of(vlm.Work("features", 64, 1), found) == {
        "features_vllm_over_hf_k64": Spread(8.0, 6.0, 12.0),
        "features_prefix_over_naive_k64": Spread(4.0, 3.0, 4.0),
        "features_vllm_over_prefix_k64": Spread(2.0, 2.0, 3.0),
    }
    assert next(iter(vlm.ratios_of(vlm.Work("candidates", 16, 2), found))) == "candidates_vllm_over_hf"
    assert next(iter(vlm.ratios_of(vlm.Work("candidates", 16, 2, 1), found))) == "candidates_vllm_over_hf_1_token"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--json"),
        (["--json", "{}/found.json", "--shape", "huge"], "invalid choice: 'huge'"),
        (["--json", "{}/nowhere/found.json"], "there is no directory"),
    ],
)
def test_wrong_words_end_with_code_2_before_anything_is_made(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*given: Any) -> int:
        raise AssertionError("a model was made")

    monkeypatch.setattr(vlm, "save_random", never)
    monkeypatch.setattr(sys, "argv", ["vlm", *(word.format(tmp_path) for word in words)])
    with pytest.raises(SystemExit) as ended:
        vlm.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
