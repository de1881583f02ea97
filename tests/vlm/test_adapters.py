"""A LoRA adapter stands for its base with the adapter merged in; what does not fit is one clear line."""

import json
import pickle
import shutil

import pytest
import torch
from adapter_fixtures import change_tensors, merge_by_hand, save_adapter
from vlm_helpers import FAMILIES

from digiq_ray.core.errors import ModelError
from digiq_ray.vlm.hub import adapter_base, find_model
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm
from emulator_workers.simphone.lessons import words


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    make_vlm(words(), seed=4).save(path, version="v7")
    return path


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    return save_adapter(base, tmp_path_factory.mktemp("made") / "step-3")


@pytest.fixture
def adapter(made, tmp_path):
    return shutil.copytree(made, tmp_path / "step-3")


def refused(path):
    with pytest.raises(ModelError) as raised:
        Vlm.load(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def set_config(adapter, **values):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def assert_same_weights(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_loaded_as_its_base_with_the_adapter_merged_in(family, family_path, tmp_path):
    base = family_path(family)
    adapter = save_adapter(base, tmp_path)
    loaded, whole = Vlm.load(adapter), Vlm.load(base)
    assert_same_weights(loaded, merge_by_hand(base, adapter))
    changed = [
        name for name, value in whole.model.state_dict().items() if not value.equal(loaded.model.state_dict()[name])
    ]
    assert changed
    assert all("_proj" in name for name in changed)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_what_is_merged_computes_what_the_adapter_beside_the_base_does(base, adapter):
    from peft import PeftModel

    beside = PeftModel.from_pretrained(Vlm.load(base).model, str(adapter))
    ids = torch.tensor([[3, 5, 7, 9, 11]])
    with torch.inference_mode():
        want, got, plain = (
            model(input_ids=ids).logits for model in (beside, Vlm.load(adapter).model, Vlm.load(base).model)
        )
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert (got - plain).abs().max() > 0.01


def test_rank_stabilised_adapters_have_another_scale(base, tmp_path):
    plain, stable = (save_adapter(base, tmp_path / str(on), use_rslora=on) for on in (False, True))
    weights = [Vlm.load(path).model.state_dict() for path in (base, plain, stable)]
    name = next(name for name in weights[0] if name.endswith("layers.0.self_attn.q_proj.weight"))
    start, ordinary, stabilised = (one[name] for one in weights)
    torch.testing.assert_close(stabilised - start, 2 * (ordinary - start), atol=1e-5, rtol=1e-4)  # sqrt(4), not 4


def test_an_adapter_has_the_card_of_its_base_unless_it_has_its_own(base, adapter):
    for read in (Vlm.load, Vlm.outline):
        assert (read(adapter).version, read(adapter).template_name) == ("v7+step-3", Vlm.load(base).template_name)
    (adapter / "digiq.json").write_text(json.dumps({"policy_version": "mine", "template": "standard"}))
    assert (Vlm.load(adapter).version, Vlm.load(adapter).template_name) == ("mine", "standard")


def test_a_merged_model_is_saved_whole(base, adapter, tmp_path):
    merged = Vlm.load(adapter)
    merged.save(tmp_path / "whole")
    assert adapter_base(tmp_path / "whole") is None
    assert_same_weights(Vlm.load(tmp_path / "whole"), merged)
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {file.name for file in base.iterdir()}


def test_a_whole_model_has_no_base_and_an_adapter_its_own(base, adapter):
    assert adapter_base(base) is None
    assert adapter_base("some/model") is None
    assert adapter_base(adapter) == str(base)
    assert find_model(adapter) == adapter


def test_a_pickled_adapter_is_never_read(adapter, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (adapter / "adapter_model.safetensors").unlink()
    assert "there is no adapter_model.safetensors" in refused(adapter)
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    assert "adapter_model.bin is a pickle and is never read" in refused(adapter)
    assert not (tmp_path / "sprung").exists()


def test_a_broken_file_is_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "is not readable" in refused(adapter)


def test_an_adapter_of_another_shape_is_refused(base, adapter, tmp_path):
    make_vlm(words(), hidden=32, layers=2, seed=4).save(tmp_path / "other")
    set_config(adapter, base_model_name_or_path=str(tmp_path / "other"))
    assert "does not fit its base" in refused(adapter)


def test_tensors_that_are_missing_or_have_no_place_are_refused(adapter):
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.weight"
    change_tensors(adapter, lambda tensors: {key: value for key, value in tensors.items() if key != name})
    assert "of 1 tensors one of the two knows nothing" in refused(adapter)
    change_tensors(
        adapter, lambda tensors: {**tensors, name: torch.zeros(0), name.replace("q_proj", "teapot"): torch.ones(1)}
    )
    assert "does not fit its base" in refused(adapter)


def test_modules_that_the_base_lacks_are_refused(adapter):
    set_config(adapter, target_modules=["teapot"])
    assert "teapot" in refused(adapter)


def test_weights_that_are_not_numbers_are_refused(adapter):
    change_tensors(adapter, lambda tensors: {key: value * float("nan") for key, value in tensors.items()})
    assert "does not fit its base" in refused(adapter)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_that_names_no_base_is_refused(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refused(adapter)


def test_an_adapter_whose_base_is_gone_is_refused(adapter):
    set_config(adapter, base_model_name_or_path=str(adapter / "gone"))
    assert "the base of the adapter" in refused(adapter)


def test_an_adapter_on_an_adapter_is_refused(made, adapter):
    set_config(adapter, base_model_name_or_path=str(made))
    assert "is an adapter itself" in refused(adapter)


@pytest.mark.parametrize("kind", ["IA3", "TEAPOT"])
def test_an_adapter_of_another_kind_is_refused(adapter, kind):
    set_config(adapter, peft_type=kind)
    assert kind in refused(adapter)


def test_an_adapter_imports_no_module_that_its_file_names(adapter, tmp_path, monkeypatch):
    (tmp_path / "trap_of_an_adapter.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    set_config(adapter, megatron_config={"a": 1}, megatron_core="trap_of_an_adapter")
    assert Vlm.load(adapter)


def test_an_adapter_of_shared_embeddings_is_refused(tmp_path):
    vlm = make_vlm(words(), seed=4)
    vlm.model.config.tie_word_embeddings = vlm.model.config.text_config.tie_word_embeddings = True
    vlm.model.tie_weights()
    vlm.save(tmp_path / "tied")
    adapter = save_adapter(tmp_path / "tied", tmp_path / "adapter", target_modules=["lm_head"])
    assert "shares them between its input and its output" in refused(adapter)
    fine = save_adapter(tmp_path / "tied", tmp_path / "fine")
    assert_same_weights(Vlm.load(fine), merge_by_hand(tmp_path / "tied", fine))
