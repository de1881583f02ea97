"""Acting by the critic's favourite among samples, on an engine with a small random VLM."""

from pathlib import Path

import pytest
import torch

from digiq_ray.core.actions import ParseError, parse_action
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.policies import ActRequest
from serve import rerank as module
from serve.engine import open_engine
from serve.players import Rerank
from serve.protocols import Reader
from serve.rerank import RerankPolicy

SOON = 60.0
WORTH = {"tap": 0.3, "back": 0.9, "home": 0.5}


class Fake:
    """An engine whose samples are given; the feature of an action is what it is worth."""

    def __init__(self, inner, drawn: list[str]) -> None:
        self._inner, self._drawn = inner, drawn

    def sample(self, model, requests, *, samples, temperature, deadline):
        found = self._inner.sample(model, requests, samples=1, temperature=temperature, deadline=deadline)
        assert samples == len(self._drawn)
        states = [[(text, -float(i)) for i, text in enumerate(self._drawn)] for _ in requests]
        return type(found)(found.policy_version, states)

    def embed(self, reader, states, actions, *, deadline):
        found = self._inner.embed(reader, states, actions, deadline=deadline)
        for one, texts in zip(found.states, actions, strict=True):
            one.actions[:] = torch.tensor([[WORTH.get(text.split()[0], 5.0)] for text in texts]).numpy()
        return found


class KnownNovelty:
    """The first state is farther away than all of training, the others as far as half of it."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        self._asked += 1
        return torch.full((len(features),), 1.0 if self._asked == 1 else 0.5)


class KnownCritic:
    def q(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0]


@pytest.fixture(scope="module")
def engine():
    made = open_engine("transformers", max_tokens=4, batch=8)
    yield made
    made.close()


@pytest.fixture
def known_critic(monkeypatch):
    monkeypatch.setattr(module, "load_critic", lambda directory: KnownCritic())


def policy(engine, model: str, *, samples: int, min_support: int = 1, **limits: float) -> RerankPolicy:
    rerank = Rerank(samples, Reader(model, -2, "last_and_action"), Path("nowhere"), min_support, 0.0, **limits)
    return RerankPolicy(engine, model=model, temperature=1.0, rerank=rerank, deadline=SOON)


def test_the_valid_sample_with_the_highest_q_is_taken(engine, models, requests, known_critic):
    drawn = ["tap red", "home", "back", "home"]
    results = policy(Fake(engine, drawn), models[0], samples=4).act(requests)
    assert len(results) == len(requests)
    assert {(one.text, one.logprob, one.policy_version) for one in results} == {("back", -2.0, "v0")}


def test_a_rare_sample_is_not_taken_where_support_is_asked_for(engine, models, requests, known_critic):
    drawn = ["tap red", "home", "back", "home"]
    results = policy(Fake(engine, drawn), models[0], samples=4, min_support=2).act(requests)
    assert {one.text for one in results} == {"home"}


def test_an_unlikely_sample_is_not_taken_where_a_probability_is_asked_for(engine, models, requests, known_critic):
    drawn = ["home", "tap red", "back"]  # of log-probability 0, -1 and -2
    results = policy(Fake(engine, drawn), models[0], samples=3, min_probability=0.2).act(requests)
    assert {one.text for one in results} == {"home"}


def test_in_a_state_that_is_too_novel_the_first_sample_stands(engine, models, requests, known_critic, monkeypatch):
    monkeypatch.setattr(module, "load_novelty", lambda directory: KnownNovelty())
    drawn = ["home", "back", "back"]
    results = policy(Fake(engine, drawn), models[0], samples=3, max_novelty=0.99).act(requests)
    assert len(results) > 1
    assert [(one.text, one.logprob) for one in results] == [("home", 0.0), *[("back", -2.0)] * (len(results) - 1)]


def test_where_no_sample_is_valid_the_first_is_taken(engine, models, requests, known_critic):
    results = policy(Fake(engine, ["tap red", "nonsense"]), models[0], samples=2).act(requests)
    assert {one.text for one in results} == {"tap red"}


def test_a_real_engine_gives_the_same_choice_for_the_same_seed(engine, models, requests, known_critic):
    one, other = (policy(engine, models[0], samples=8).act(requests) for _ in range(2))
    assert [(a.text, a.policy_version) for a in one] == [(b.text, b.policy_version) for b in other]
    proposed = engine.sample(models[0], requests, samples=8, temperature=1.0, deadline=SOON)
    for result, drawn in zip(one, proposed.states, strict=True):
        assert result.text in dict(drawn)
        assert is_valid(result.text) or not any(is_valid(text) for text, _ in drawn)


def is_valid(text: str) -> bool:
    try:
        parse_action(text)
    except ParseError:
        return False
    return True


def test_a_screen_that_is_no_image_is_an_input_error(engine, models, known_critic):
    with pytest.raises(InputError):
        policy(engine, models[0], samples=2).act([ActRequest(b"no image", "shop", (), 0)])


def test_without_a_critic_it_is_a_typed_error(engine, models, requests):
    with pytest.raises(StoreError, match="no readable critic in nowhere"):
        policy(engine, models[0], samples=2).act(requests)
