import io
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlm_helpers import png

from digiq_ray.core.actions import (
    Action,
    ActionType,
    ParseError,
    format_action,
    parse_action,
    press,
    swipe,
    tap,
    type_text,
)
from digiq_ray.vlm.batching import inputs
from digiq_ray.vlm.images import Fit
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import sample
from digiq_ray.vlm.tiny import GRID, SHIPPED, load_tiny, make_vlm, vocabulary
from emulator_workers.simphone.lessons import words
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.tasks import KINDS, SPLITS, build, phone_for
from emulator_workers.simphone.world import ITEMS, NOTES

PLAIN = [
    kind
    for kind in ActionType
    if kind not in (ActionType.TAP, ActionType.LONG_PRESS, ActionType.SWIPE, ActionType.TYPE)
]
grid = st.integers(0, GRID).map(lambda i: i / GRID)
actions = st.one_of(
    st.builds(tap, grid, grid),
    st.builds(lambda x, y: Action(ActionType.LONG_PRESS, x, y), grid, grid),
    st.builds(swipe, grid, grid, grid, grid),
    st.sampled_from((*ITEMS, *NOTES)).map(type_text),
    st.sampled_from(PLAIN).map(press),
)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny.save(path, version="v7")
    return path


def logits(vlm):
    screen = vlm.transform.prepare(png())
    ids = torch.tensor([[*vlm.prefix_ids(screen, "open mail", ("back",)), *vlm.act_ids()]])
    with torch.inference_mode():
        return vlm.model(**inputs(vlm, [screen], ids, torch.ones_like(ids))).logits


def test_it_has_fewer_than_two_million_parameters():
    assert 100_000 < sum(parameter.numel() for parameter in make_vlm(words()).model.parameters()) < 2_000_000


def test_saving_and_loading_keeps_the_logits(tiny, saved):
    assert torch.equal(logits(Vlm.load(saved)), logits(tiny))


def test_saving_keeps_prompts_fit_and_version(tiny, saved):
    loaded = Vlm.load(saved)
    assert (loaded.template, loaded.transform.fit, loaded.version) == (tiny.template, Fit.STRETCH, "v7")
    assert loaded.transform.description == tiny.transform.description


def test_weights_are_safetensors_only(saved):
    assert list(saved.glob("*.safetensors"))
    assert not [path for pattern in ("*.bin", "*.pt", "*.pkl") for path in saved.glob(pattern)]


def test_plain_transformers_loads_and_runs_it(tiny, saved):
    model = AutoModelForImageTextToText.from_pretrained(saved).eval()
    processor = AutoProcessor.from_pretrained(saved)
    text = tiny.template.prefix_text("open mail", ("back",)) + tiny.template.act
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    picture = Image.open(io.BytesIO(png())).resize((96, 96), Image.Resampling.BOX)
    given = processor(text=[prompt], images=[picture], return_tensors="pt")
    own = [*tiny.prefix_ids(tiny.transform.prepare(png()), "open mail", ("back",)), *tiny.act_ids()]
    assert [tiny.tokenizer.bos_token_id, *given["input_ids"][0].tolist()] == own
    given["input_ids"] = torch.tensor([own])
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(model(**given).logits, logits(tiny), atol=1e-4, rtol=1e-4)


def test_plain_transformers_generates_with_it(saved):
    model, processor = AutoModelForImageTextToText.from_pretrained(saved).eval(), AutoProcessor.from_pretrained(saved)
    given = processor(text=["<image>Act:"], images=[Image.new("RGB", (96, 96))], return_tensors="pt")
    assert model.generate(**given, max_new_tokens=3, do_sample=False).shape[1] > given["input_ids"].shape[1]


@given(actions)
def test_actions_survive_tokens_exactly(tiny, action):
    text = format_action(action)
    ids = tiny.answer_ids(text)
    assert ids[-1] == tiny.eos_id
    assert tiny.text_of(ids) == text
    assert parse_action(tiny.text_of(ids)) == action


@pytest.mark.parametrize("name", sorted(KINDS))
def test_task_texts_survive_tokens_exactly(tiny, name):
    for text in {task.text for split in SPLITS for task in build(name, split, 300)}:
        assert tiny.text_of(tiny.answer_ids(text)) == text


def test_an_action_costs_few_tokens(tiny):
    assert len(tiny.answer_ids("tap 0.50 0.24")) == 4
    assert len(tiny.answer_ids("swipe 0.50 0.80 0.50 0.20")) <= 8


def test_the_vocabulary_has_each_word_once():
    found = vocabulary(["b", "a", "b", "tap", "0.50"])
    assert len(found) == len(set(found))
    assert found.count("tap") == 1


def test_the_vocabulary_does_not_depend_on_the_order_of_words():
    shuffled = sorted(words())
    random.Random(0).shuffle(shuffled)
    assert vocabulary(shuffled) == vocabulary(words())


def test_the_seed_decides_the_weights():
    hashes = [make_vlm(words(), seed=seed).weights_hash for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


# ---- the model that ships


@pytest.fixture(scope="module")
def shipped():
    return load_tiny()


def test_the_shipped_model_is_small(shipped):
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8_000_000
    assert sum(parameter.numel() for parameter in shipped.model.parameters()) < 2_000_000


def test_the_shipped_model_has_todays_vocabulary_and_prompts(shipped, tiny):
    assert shipped.tokenizer.get_vocab() == tiny.tokenizer.get_vocab()
    assert (shipped.template, shipped.transform.fit) == (tiny.template, tiny.transform.fit)
    assert shipped.transform.description == tiny.transform.description


def test_the_shipped_model_mostly_writes_actions(shipped):
    screens, prefixes = [], []
    for task in build("general", "test", 40):
        encoded = io.BytesIO()
        render(phone_for(task)).save(encoded, "PNG")
        screens.append(shipped.transform.prepare(encoded.getvalue()))
        prefixes.append(shipped.prefix_ids(screens[-1], task.text, ()))
    texts = [text for ((text, _),) in sample(shipped, screens, prefixes, list(range(40)))]
    assert sum(parses(text) for text in texts) > 36


def parses(text):
    try:
        parse_action(text)
    except ParseError:
        return False
    return True
