"""A training that is spread over two processes gives what one process gives, also when it is killed and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_critic import make_trainer
from small_group import CRITICS, critic_to_the_end, everything, heads, in_group, stages
from small_runs import make_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText

from digiq_ray.core.errors import StoreError
from digiq_ray.core.spread import Spread
from digiq_ray.learner.checkpoints import Checkpoints
from digiq_ray.learner.shared import restore_checkpoint
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import SHIPPED

pytestmark = pytest.mark.slow

NEAR = 1e-5
VLMS, HEADS = ("feature_vlm", "mc", "filtered_bc"), ("critic", "critic_mc")
# A constant that is added to all keys moves all scores of a query alike, which changes no probability: its gradient is
# nothing but rounding, and AdamW makes steps of the learning rate out of that.
WITHOUT_GRADIENT = "self_attn.k_proj.bias"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process has trained."""
    root = prepared(tmp_path_factory.mktemp("one"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        heads(root / "heads")
        stages(root / "run")
    finally:
        torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have trained."""
    root = prepared(tmp_path_factory.mktemp("two"))
    in_group(everything, 2, root)
    return root


def prepared(root: Path) -> Path:
    (root / "heads").mkdir()
    for name in ("run", "killed"):
        make_run(root / name)
    return root


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest difference of two states, and where it is."""
    assert one.keys() == other.keys()
    return max((float((one[key].double() - other[key].double()).abs().max()), key) for key in one)


def numbers(value: object) -> Iterator[float]:
    """All numbers in something that was JSON, in order."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def weights(directory: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(directory / file)


@pytest.mark.parametrize("name", [*CRITICS, "values"])
def test_heads_and_their_optimiser_are_those_of_one_process(one, two, name):
    states = [load_file(root / "heads" / f"{name}.safetensors") for root in (one, two)]
    assert furthest(*states) < (NEAR,)
    figures = [list(numbers(json.loads((root / "heads" / f"{name}.json").read_text()))) for root in (one, two)]
    assert figures[1] == pytest.approx(figures[0], abs=NEAR)


@pytest.mark.parametrize("name", HEADS)
def test_a_stage_publishes_the_critic_of_one_process(one, two, name):
    states = [weights(root / "run" / "models" / name, "critic.safetensors") for root in (one, two)]
    assert furthest(*states) < (NEAR,)


@pytest.mark.parametrize("name", VLMS)
def test_a_stage_publishes_the_vlm_of_one_process_whole(one, two, name):
    states = [weights(root / "run" / "models" / name) for root in (one, two)]
    kept = [{key: value for key, value in state.items() if WITHOUT_GRADIENT not in key} for state in states]
    assert len(kept[0]) == len(states[0]) - 2
    assert furthest(*kept) < (NEAR,)
    assert furthest(kept[0], {key: weights(SHIPPED)[key] for key in kept[0]}) > (10 * NEAR,)


@pytest.mark.parametrize("name", VLMS)
def test_from_pretrained_loads_a_vlm_that_was_sharded_or_adapted(two, name):
    directory = two / "run" / "models" / name
    model, about = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not any(about.values())
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert json.loads((directory / "config.json").read_text())["architectures"] == [type(model).__name__]
    assert Vlm.load(directory).version.split("-")[0] == name


def test_the_figures_of_stages_are_those_of_one_process(one, two):
    figures = [json.loads((root / "run" / "figures.json").read_text()) for root in (one, two)]
    assert [list(stage) for stage in figures[0].values()] == [list(stage) for stage in figures[1].values()]
    assert list(numbers(figures[1])) == pytest.approx(list(numbers(figures[0])), rel=NEAR, abs=NEAR)


def test_metrics_are_written_once(one, two):
    for name in ("finetune", "critic"):
        told = []
        for root in (one, two):
            events = EventAccumulator(str(root / "run" / "metrics" / name))
            events.Reload()
            told.append({tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
        assert told[0] == told[1]


def test_heads_that_were_killed_go_on_exactly(two):
    whole, broken = (load_file(two / name / "end.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert [key for key in whole if not torch.equal(whole[key], broken[key])] == []
    assert (two / "whole" / "end.json").read_text() == (two / "broken" / "end.json").read_text()


def test_a_sharded_vlm_that_was_killed_goes_on_exactly(two):
    whole, broken = (weights(two / root / "models" / "feature_vlm") for root in ("run", "killed"))
    assert whole.keys() == broken.keys()
    assert [key for key in whole if not torch.equal(whole[key], broken[key])] == []


def test_one_process_goes_on_where_two_were_killed(two):
    critic_to_the_end(two / "handed")
    assert furthest(*(load_file(two / name / "end.safetensors") for name in ("whole", "handed"))) < (NEAR,)


def test_processes_that_see_different_checkpoints_say_so(tmp_path):
    class Elsewhere(Spread):
        """The second of two processes, of which the first has found step 8."""

        rank, size = 1, 2

        def mean(self, figures):
            return {name: (value + 8) / 2 for name, value in figures.items()}

    trainer = make_trainer()
    with pytest.raises(
        StoreError, match="process 1 of a training finds a checkpoint of step 0 and others find another"
    ):
        restore_checkpoint(Elsewhere(), Checkpoints(tmp_path), trainer.modules(), trainer.optimizer)
