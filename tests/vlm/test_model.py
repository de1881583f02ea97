import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm_helpers import png

from digiq_ray.core.errors import ModelError
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm
from emulator_workers.simphone.lessons import words


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    make_vlm(words(), seed=4).save(path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def refused(path):
    with pytest.raises(ModelError) as raised:
        Vlm.load(path)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# ---- loading


def test_a_missing_path_is_a_model_error(tmp_path):
    assert "no such directory" in refused(tmp_path / "nothing")


def test_an_empty_directory_is_a_model_error(tmp_path):
    assert str(tmp_path) in refused(tmp_path)


def test_a_file_is_a_model_error(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text("not a model")
    assert str(path) in refused(path)


def test_a_directory_of_something_else_is_a_model_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "teapot"}))
    assert str(tmp_path) in refused(tmp_path)


def test_a_text_model_is_a_model_error(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config["text_config"], "model_type": "llama"}))
    refused(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_part_is_a_model_error(copy, name):
    (copy / name).unlink()
    refused(copy)


def test_torn_weights_are_a_model_error(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(copy)


def test_a_missing_weight_is_a_model_error_and_never_drawn_at_random(copy):
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if "layers.1" in name)
    del weights[name]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "missing" in refused(copy)


def test_a_weight_of_another_shape_is_a_model_error(copy):
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("lm_head.weight"))
    weights[name] = weights[name][:-3].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy)


def test_a_pickle_beside_no_safetensors_is_not_read(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    refused(copy)


@pytest.mark.parametrize(
    ("card", "said"),
    [("{", "digiq.json"), ("[]", "digiq.json"), ('{"fit": "crop"}', "crop"), ('{"template": "rhyme"}', "compact")],
)
def test_a_wrong_card_is_a_model_error_that_names_it(copy, card, said):
    (copy / "digiq.json").write_text(card)
    assert said in refused(copy)


def test_without_a_card_the_standard_prompts_are_used(copy):
    (copy / "digiq.json").unlink()
    vlm = Vlm.load(copy)
    assert (vlm.template_name, str(vlm.transform.fit), vlm.version) == ("standard", "letterbox", "base")


def test_a_model_without_a_chat_template_is_a_model_error(copy):
    (copy / "chat_template.jinja").unlink()
    assert "chat template" in refused(copy)


@pytest.mark.parametrize("template", ["{{ messages[0]['content'][1]['text'] }}<image>", "{{ 1 / 0 }}", "{{ a.b.c }}"])
def test_a_chat_template_that_cannot_serve_is_a_model_error(copy, template):
    (copy / "chat_template.jinja").write_text(template)
    assert "chat template" in refused(copy)


def test_a_processor_without_images_is_a_model_error(tiny):
    class TextOnly:
        tokenizer = tiny.tokenizer

    with pytest.raises(ModelError, match="image processor"):
        Vlm(tiny.model, TextOnly(), template="compact", fit=tiny.transform.fit)


# ---- weights


def test_equal_weights_have_equal_hashes(whole, tiny):
    assert Vlm.load(whole).weights_hash == make_vlm(words(), seed=4).weights_hash != tiny.weights_hash


def test_the_hash_changes_with_any_weight():
    vlm = make_vlm(words(), seed=4)
    before = vlm.weights_hash
    for parameter in (next(vlm.model.parameters()), vlm.model.get_output_embeddings().weight):
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        assert vlm.weights_hash != before
        before = vlm.weights_hash


def test_the_hash_reads_scalars_too():
    vlm = make_vlm(words(), seed=4)
    before = vlm.weights_hash
    vlm.model.register_buffer("temperature", torch.tensor(1.5))
    assert vlm.weights_hash != before


# ---- prompts as ids


def test_a_prefix_is_image_task_and_history_in_this_order(tiny):
    ids = tiny.prefix_ids(tiny.transform.prepare(png()), "open mail", ("back",))
    images = [i for i, token in enumerate(ids) if token == tiny.model.config.image_token_id]
    assert ids[0] == tiny.tokenizer.bos_token_id
    assert len(images) == tiny.model.config.image_seq_length
    assert images == list(range(images[0], images[-1] + 1))
    text = tiny.text_of(ids[images[-1] + 1 :])
    assert text.index("open mail") < text.index("back")


def test_prefixes_of_one_screen_differ_after_the_image_only(tiny):
    screen = tiny.transform.prepare(png())
    one, other = (tiny.prefix_ids(screen, task, ()) for task in ("open mail", "turn on wifi"))
    start = 1 + tiny.model.config.image_seq_length
    assert one[:start] == other[:start]
    assert one != other


@pytest.mark.parametrize("action", ["back", "tap 0.50 0.24", "type red mug"])
def test_the_span_of_a_question_holds_the_actions_own_tokens(tiny, action):
    ids, span = tiny.change_ids(action)
    assert tiny.text_of(ids[span]) == action
    assert action in tiny.text_of(ids)


def test_the_span_of_an_empty_action_is_not_empty(tiny):
    ids, span = tiny.change_ids("")
    assert len(ids[span]) == 1


def test_text_ends_at_the_first_end_token(tiny):
    ids = [*tiny.answer_ids("tap 0.50 0.24"), *tiny.answer_ids("back")]
    assert tiny.text_of(ids) == "tap 0.50 0.24"


def test_every_end_token_of_the_model_ends_a_text(tiny):
    vlm = make_vlm(words(), seed=4)
    other = vlm.tokenizer.convert_tokens_to_ids("wait")
    vlm.model.generation_config.eos_token_id = [vlm.eos_id, other]
    vlm = Vlm(vlm.model, vlm.processor, template="compact", fit=tiny.transform.fit)
    assert vlm.end_ids == (vlm.eos_id, other)
    assert vlm.text_of([*vlm.answer_ids("back")[:-1], other, *vlm.answer_ids("home")]) == "back"


def test_logits_are_the_models_own_and_capped_if_the_model_caps_them(tiny):
    hidden = torch.randn(2, 3, tiny.hidden_size)
    plain = tiny.model.get_output_embeddings()(hidden)
    torch.testing.assert_close(tiny.logits(hidden), plain)
    tiny.model.config.text_config.final_logit_softcapping = 2.0
    try:
        assert tiny.logits(hidden).abs().max() <= 2.0
    finally:
        del tiny.model.config.text_config.final_logit_softcapping
