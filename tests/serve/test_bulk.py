"""Bulk stages over shards: candidates of states, features of states and candidates."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import FingerprintMismatchError, ModelError
from digiq_ray.learner.models import cached_extractor
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from serve.bulk import Done, EmbedWork, SampleWork, Shard, make_shards
from serve.protocols import Embedded, Failure, Features, Reader
from serve.transformers_engine import TransformersEngine

K = 6
ALL = Shard(name="all", episode_ids=("cut", "lost", "won"))
SOON = 60.0


@pytest.fixture(scope="module")
def engine():
    made = TransformersEngine(max_tokens=4, batch=2)
    yield made
    made.close()


def sample_work(episodes, model: str, name: str = "candidates", **options) -> SampleWork:
    path = CandidateStore.create(episodes.path.parent / name).path
    defaults = {"k": K, "temperature": 1.0, "batch": 2, "seed": 0, "deadline": SOON}
    return SampleWork(episodes=episodes.path, candidates=path, model=model, **defaults | options)


def embed_work(episodes, model: str, name: str = "features", **options) -> EmbedWork:
    root = episodes.path.parent
    for kind in ("states", "actions"):
        FeatureStore.create(root / name / kind)
    defaults = {"reader": Reader(model, 1, "last_and_action"), "batch": 2, "deadline": SOON}
    return EmbedWork(
        episodes=episodes.path,
        candidates=root / "candidates",
        features=root / name,
        **defaults | options,
    )


def rows_of(work: SampleWork) -> list[dict]:
    return CandidateStore(work.candidates).table().to_pylist()


def features_of(work: EmbedWork, kind: str):
    view = FeatureStore(work.features / kind).open()
    keys = [tuple(row.values()) for row in view.keys.to_pylist()]
    return keys, view.rows(np.arange(len(view)))


def content(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@given(st.sets(st.text("abcdef", min_size=1), max_size=30), st.integers(1, 9))
def test_shards_hold_each_episode_once_and_have_names_of_their_own(ids, size):
    shards = make_shards(list(ids), size)
    assert [name for shard in shards for name in shard.episode_ids] == sorted(ids)
    assert all(1 <= len(shard.episode_ids) <= size for shard in shards)
    assert len({shard.name for shard in shards}) == len(shards)
    assert make_shards(sorted(ids, reverse=True), size) == shards


def test_a_shard_of_other_episodes_has_another_name():
    assert make_shards(["a", "b"], 2)[0].name != make_shards(["a", "c"], 2)[0].name


# Candidates.


def test_each_state_with_an_action_has_k_draws_and_what_was_executed(episodes, executed, models, engine):
    work = sample_work(episodes, models[0])
    assert work(ALL, engine) == Done(sum(map(len, executed.values())))
    states = {}
    for row in rows_of(work):
        states.setdefault((row["episode_id"], row["step"]), []).append(row)
    assert states.keys() == {(name, step) for name, texts in executed.items() for step in range(len(texts))}
    for (name, step), rows in states.items():
        assert sum(row["multiplicity"] for row in rows) == K
        assert [row["action"] for row in rows if row["is_behaviour"]] == [executed[name][step]]
        assert len({row["action"] for row in rows}) == len(rows)
        assert {row["policy_version"] for row in rows} == {"v0"}
        assert all(row["logprob"] is not None and row["logprob"] < 0 for row in rows if row["multiplicity"])
        assert all(row["valid"] == (row["parse_error"] is None) for row in rows)


def test_candidates_do_not_depend_on_batches_or_shards(episodes, models, engine):
    whole, apart = sample_work(episodes, models[0]), sample_work(episodes, models[0], "apart", batch=3)
    whole(ALL, engine)
    for shard in make_shards(["cut", "lost", "won"], 1):
        apart(shard, engine)
    one, other = (
        [(r["episode_id"], r["step"], r["action"], r["multiplicity"]) for r in rows_of(w)] for w in (whole, apart)
    )
    assert one == other


def test_the_seed_decides_the_candidates(episodes, models, engine):
    works = [sample_work(episodes, models[0], f"seed {n}", seed=seed) for n, seed in enumerate((0, 0, 1))]
    for work in works:
        work(ALL, engine)
    assert rows_of(works[0]) == rows_of(works[1]) != rows_of(works[2])


def test_a_shard_of_candidates_that_is_there_is_left_alone_without_a_model(episodes, models, engine):
    work = sample_work(episodes, models[0])
    work(ALL, engine)
    before = content(work.candidates)
    assert sample_work(episodes, "no such model")(ALL, engine) == Done()
    assert content(work.candidates) == before


# Features.


@pytest.fixture
def sampled(episodes, models, engine):
    """The episodes, whose candidates lie in the store beside them."""
    sample_work(episodes, models[0])(ALL, engine)
    return episodes


def test_every_state_and_every_candidate_is_embedded_once(sampled, executed, models, engine):
    work = embed_work(sampled, models[1])
    done = work(ALL, engine)
    state_keys, states = features_of(work, "states")
    action_keys, actions = features_of(work, "actions")
    wanted = {(name, step, None) for name, texts in executed.items() for step in range(len(texts) + 1)}
    assert set(state_keys) == wanted, "the last states too"
    assert len(state_keys) == len(wanted)
    candidates = CandidateStore(work.candidates).table().to_pylist()
    assert sorted(action_keys) == sorted((row["episode_id"], row["step"], row["action"]) for row in candidates)
    assert done == Done(len(state_keys))
    assert states.shape[1] * 2 == actions.shape[1]
    assert np.isfinite(states).all()
    assert np.isfinite(actions).all()


def test_features_are_the_same_when_they_are_made_again(sampled, models, engine):
    works = [embed_work(sampled, models[1], name) for name in ("one", "two")]
    for work in works:
        work(ALL, engine)
    for kind in ("states", "actions"):
        (keys, one), (other_keys, two) = (features_of(work, kind) for work in works)
        assert keys == other_keys
        assert np.array_equal(one, two)


def test_features_do_not_depend_on_batches_or_shards(sampled, models, engine):
    whole, apart = embed_work(sampled, models[1]), embed_work(sampled, models[1], "apart", batch=1)
    whole(ALL, engine)
    for shard in make_shards(["cut", "lost", "won"], 1):
        apart(shard, engine)
    for kind in ("states", "actions"):
        (keys, one), (other_keys, two) = (features_of(work, kind) for work in (whole, apart))
        assert keys == other_keys
        assert np.allclose(one, two, atol=1e-5)


def test_the_fingerprint_says_what_made_the_features(sampled, models, engine):
    work = embed_work(sampled, models[1])
    work(ALL, engine)
    extractor = cached_extractor(models[1], 1, "last_and_action")
    for kind in ("states", "actions"):
        found = FeatureStore(work.features / kind).open().fingerprint
        assert (found.model, found.layer, found.pooling) == (extractor.weights_hash, 1, "last_and_action")
        assert found.prompt == extractor.vlm.template.digest
        assert found.image == extractor.vlm.transform.description


def test_features_of_two_models_do_not_come_together(sampled, models, engine):
    embed_work(sampled, models[1])(Shard(name="a", episode_ids=("cut",)), engine)
    with pytest.raises(FingerprintMismatchError):
        embed_work(sampled, models[2])(Shard(name="b", episode_ids=("won",)), engine)


def test_a_shard_of_features_that_is_there_is_left_alone_without_a_model(sampled, models, engine):
    work = embed_work(sampled, models[1])
    work(ALL, engine)
    before = content(work.features)
    assert embed_work(sampled, "no such model")(ALL, engine) == Done()
    assert content(work.features) == before


def test_a_shard_that_was_broken_off_between_its_two_files_is_completed(sampled, models, engine):
    work = embed_work(sampled, models[1])
    work(ALL, engine)
    before = content(work.features)
    (work.features / "states" / "all.arrow").unlink()
    torch.manual_seed(9)
    assert work(ALL, engine).states > 0
    assert content(work.features) == before


def test_episodes_in_which_nothing_was_done_have_states_only(sampled, models, engine):
    work = embed_work(sampled, models[1])
    assert work(Shard(name="lost", episode_ids=("lost",)), engine) == Done(1)
    assert features_of(work, "states")[0] == [("lost", 0, None)]
    assert features_of(work, "actions")[0] == []


# States that the model cannot read.


@pytest.fixture
def unreadable(episodes):
    """The episodes, where the second screen of ``cut`` is no image."""
    (cut,) = episodes.episodes(["cut"])
    steps = list(cut.steps)
    steps[1] = dataclasses.replace(steps[1], screen=b"no image")
    store = EpisodeStore.create(episodes.path.parent / "unreadable")
    store.append([dataclasses.replace(cut, steps=tuple(steps)), *episodes.episodes(["lost", "won"])])
    return store


def test_a_state_that_the_model_cannot_read_has_no_row_and_is_reported(unreadable, executed, models, engine):
    work = sample_work(unreadable, models[0])
    done = work(ALL, engine)
    assert list(done.failures.values()) == [1]
    assert "image" in next(iter(done.failures))
    places = {(name, step) for name, texts in executed.items() for step in range(len(texts))}
    assert {(row["episode_id"], row["step"]) for row in rows_of(work)} == places - {("cut", 1)}
    embedding = embed_work(unreadable, models[1])
    assert list(embedding(ALL, engine).failures.values()) == [1]
    keys = {key[:2] for key in features_of(embedding, "states")[0]}
    assert keys == {(name, step) for name, texts in executed.items() for step in range(len(texts) + 1)} - {("cut", 1)}


class Broken:
    """An engine whose features are of one value."""

    def __init__(self, value: float, fingerprint) -> None:
        self.value, self.fingerprint = value, fingerprint

    def embed(self, reader, states, actions, *, deadline):
        rows = [np.full((len(texts), 4), self.value, np.float32) for texts in actions]
        states = [Features(np.ones(2, np.float32), row, 1) for row in rows]
        return Embedded(self.fingerprint, [*states[:-1], Failure("no")])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_features_of_nothing_are_never_stored(sampled, models, engine, value):
    work = embed_work(sampled, models[1], batch=100)
    fingerprint = engine.embed(work.reader, [], [], deadline=SOON).fingerprint
    done = work(ALL, Broken(value, fingerprint))
    assert sum(done.failures.values()) == 5, "the four states with candidates, and the last one"
    assert set(done.failures) == {"no", "the model gave zeros, NaN or infinity"}


def test_a_model_that_cannot_be_loaded_is_an_error_and_leaves_nothing(episodes, engine):
    work = sample_work(episodes, "no/such model")
    with pytest.raises(ModelError, match="cannot load"):
        work(ALL, engine)
    assert CandidateStore(work.candidates).shards() == set()
