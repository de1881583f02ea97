"""Models of other families go through the same code, and get from it what Transformers' own processor gives them."""

import pytest
import torch
from vlm_helpers import BOS, FAMILIES, fresh, png

from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.finetune import ChangeExample, stage1_loss
from digiq_ray.vlm.images import decode, letterbox
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import VlmPolicy, sample

TASK_TEXTS = ("open mail", "buy a red mug", "turn on wifi")
ACTION_TEXTS = ("back", "tap 0.50 0.24", "home")
SCREENS = (png(96, 192), png(96, 192, shift=60), png(120, 80))


@pytest.fixture(params=sorted(FAMILIES))
def vlm(request, family_path):
    return Vlm.load(family_path(request.param))


@pytest.fixture
def states(vlm):
    screens = [vlm.transform.prepare(screen) for screen in SCREENS]
    return screens, [vlm.prefix_ids(s, t, ()) for s, t in zip(screens, TASK_TEXTS, strict=True)]


def by_transformers(vlm, screen, text):
    """One prompt as the model's own processor and chat template make it, and what the model says to it."""
    image = decode(screen)
    if "screen_size" not in vlm.transform.prepare(screen):
        image = letterbox(image)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = vlm.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    given = vlm.processor(text=[BOS + prompt], images=[image], return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        return given["input_ids"][0].tolist(), vlm.model(**given, output_hidden_states=True)


def close(got, want):
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_prompts_are_those_of_the_models_own_processor(vlm, states):
    for screen, prefix, task in zip(SCREENS, states[1], TASK_TEXTS, strict=True):
        ids, _ = by_transformers(vlm, screen, vlm.template.prefix_text(task, ()) + vlm.template.act)
        assert [*prefix, *vlm.act_ids()] == ids


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_are_transformers_hidden_states(vlm, states, layer):
    screens, prefixes = states
    extractor = FeatureExtractor(fresh(vlm), layer=layer, pooling=Pooling.LAST)
    found, actions = extractor.extract(screens, prefixes, [[a, ACTION_TEXTS[0]] for a in ACTION_TEXTS])
    for index, (screen, task, action) in enumerate(zip(SCREENS, TASK_TEXTS, ACTION_TEXTS, strict=True)):
        before = vlm.template.prefix_text(task, ())
        _, out = by_transformers(vlm, screen, before + vlm.template.act)
        close(found[index], out.hidden_states[layer][0, -1])
        _, out = by_transformers(vlm, screen, before + vlm.template.change_text(action))
        close(actions[index][0], out.hidden_states[layer][0, -1])


def test_the_screen_reaches_the_features(vlm, states):
    screens, prefixes = states
    extractor = FeatureExtractor(fresh(vlm), layer=2, pooling=Pooling.LAST)
    found, _ = extractor.extract([screens[0], screens[1]], [prefixes[0]] * 2, [[], []])
    assert float((found[0] - found[1]).abs().max()) > 1e-4


def test_answers_have_the_logprobs_that_transformers_gives_them(vlm, states):
    screens, prefixes = states
    prompts = [[*prefix, *vlm.act_ids()] for prefix in prefixes]
    answers = [vlm.answer_ids(action)[:1] for action in ACTION_TEXTS]
    with torch.inference_mode():
        logprobs, _ = answer_logprobs(vlm, screens, prompts, answers)
    for got, screen, task, (token,) in zip(logprobs, SCREENS, TASK_TEXTS, answers, strict=True):
        _, out = by_transformers(vlm, screen, vlm.template.prefix_text(task, ()) + vlm.template.act)
        close(got[0], torch.log_softmax(out.logits[0, -1], -1)[token])


def test_greedy_sampling_writes_what_transformers_finds_likeliest(vlm, states):
    screens, prefixes = states
    drawn = sample(vlm, screens, prefixes, [1, 2, 3], temperature=0.0, max_tokens=1)
    for ((text, logprob),), screen, task in zip(drawn, SCREENS, TASK_TEXTS, strict=True):
        _, out = by_transformers(vlm, screen, vlm.template.prefix_text(task, ()) + vlm.template.act)
        best = torch.log_softmax(out.logits[0, -1], -1).max(-1)
        assert text == vlm.text_of([int(best.indices)])
        assert logprob == pytest.approx(float(best.values), abs=1e-4)


def test_actions_are_sampled_and_decided_by_the_seed(vlm):
    pairs = zip(SCREENS, TASK_TEXTS, strict=True)
    asked = [ActRequest(screen, task, (), seed) for seed, (screen, task) in enumerate(pairs)]
    policy = VlmPolicy(vlm)
    results = policy.act(asked)
    assert [policy.act([one])[0].text for one in asked] == [result.text for result in results]
    assert all(result.logprob < 0 for result in results)


def test_imitation_makes_an_action_likelier(vlm, states):
    screens, prefixes = states
    prompts, answers = [[*p, *vlm.act_ids()] for p in prefixes], [vlm.answer_ids(a) for a in ACTION_TEXTS]
    optimizer = torch.optim.SGD(vlm.model.parameters(), 1e-3)
    losses = []
    for _ in range(2):
        logprobs, _ = answer_logprobs(vlm, screens, prompts, answers)
        loss = -logprobs.sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    layers = [p for name, p in vlm.language_model.named_parameters() if "layers" in name]
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in layers)


def test_stage_1_reaches_all_layers(vlm, states):
    examples = [
        ChangeExample(screen, prefix, action, bool(index % 2))
        for index, (screen, prefix, action) in enumerate(zip(*states, ACTION_TEXTS, strict=True))
    ]
    loss = stage1_loss(vlm, examples, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    layers = [p for name, p in vlm.language_model.named_parameters() if "layers" in name]
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in layers)


def test_a_model_survives_saving(vlm, tmp_path):
    vlm.save(tmp_path / "again", version="v2")
    again = Vlm.load(tmp_path / "again")
    assert (again.weights_hash, again.version) == (vlm.weights_hash, "v2")
    assert again.transform.description == vlm.transform.description


def test_at_least_two_other_families_work_without_torchvision(family_path):
    assert {Vlm.load(family_path(name)).model.config.model_type for name in ("llava_next", "gemma3")} == {
        "llava_next",
        "gemma3",
    }
