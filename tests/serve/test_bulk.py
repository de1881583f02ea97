"""Bulk stages over shards: candidates of states, features of states and candidates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import FingerprintMismatchError
from digiq_ray.learner.models import cached_extractor
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.features import FeatureStore
from serve.bulk import EmbedWork, SampleWork, Shard, embed_shard, make_shards, sample_shard

K = 6
ALL = Shard(name="all", episode_ids=("cut", "lost", "won"))


def sample_work(episodes, model: str, name: str = "candidates", **options) -> SampleWork:
    path = CandidateStore.create(episodes.path.parent / name).path
    defaults = {"k": K, "temperature": 1.0, "max_tokens": 4, "batch": 2, "seed": 0}
    return SampleWork(episodes=episodes.path, candidates=path, model=model, **defaults | options)


def embed_work(episodes, model: str, name: str = "features", **options) -> EmbedWork:
    root = episodes.path.parent
    for kind in ("states", "actions"):
        FeatureStore.create(root / name / kind)
    defaults = {"layer": 1, "pooling": "last_and_action", "batch": 2}
    return EmbedWork(
        episodes=episodes.path,
        candidates=root / "candidates",
        features=root / name,
        model=model,
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


def test_each_state_with_an_action_has_k_draws_and_what_was_executed(episodes, executed, models):
    work = sample_work(episodes, models[0])
    assert sample_shard(work, ALL) == sum(map(len, executed.values()))
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


def test_candidates_do_not_depend_on_batches_or_shards(episodes, models):
    whole, apart = sample_work(episodes, models[0]), sample_work(episodes, models[0], "apart", batch=3)
    sample_shard(whole, ALL)
    for shard in make_shards(["cut", "lost", "won"], 1):
        sample_shard(apart, shard)
    one, other = (
        [(r["episode_id"], r["step"], r["action"], r["multiplicity"]) for r in rows_of(w)] for w in (whole, apart)
    )
    assert one == other


def test_the_seed_decides_the_candidates(episodes, models):
    works = [sample_work(episodes, models[0], f"seed {n}", seed=seed) for n, seed in enumerate((0, 0, 1))]
    for work in works:
        sample_shard(work, ALL)
    assert rows_of(works[0]) == rows_of(works[1]) != rows_of(works[2])


def test_a_shard_of_candidates_that_is_there_is_left_alone_without_a_model(episodes, models):
    work = sample_work(episodes, models[0])
    sample_shard(work, ALL)
    before = content(work.candidates)
    assert sample_shard(sample_work(episodes, "no such model"), ALL) == 0
    assert content(work.candidates) == before


# Features.


@pytest.fixture
def sampled(episodes, models):
    """The episodes, whose candidates lie in the store beside them."""
    sample_shard(sample_work(episodes, models[0]), ALL)
    return episodes


def test_every_state_and_every_candidate_is_embedded_once(sampled, executed, models):
    work = embed_work(sampled, models[1])
    count = embed_shard(work, ALL)
    state_keys, states = features_of(work, "states")
    action_keys, actions = features_of(work, "actions")
    wanted = {(name, step, None) for name, texts in executed.items() for step in range(len(texts) + 1)}
    assert set(state_keys) == wanted, "the last states too"
    assert len(state_keys) == len(wanted)
    candidates = CandidateStore(work.candidates).table().to_pylist()
    assert sorted(action_keys) == sorted((row["episode_id"], row["step"], row["action"]) for row in candidates)
    assert count == len(state_keys) + len(action_keys)
    assert states.shape[1] * 2 == actions.shape[1]
    assert np.isfinite(states).all()
    assert np.isfinite(actions).all()


def test_features_are_the_same_when_they_are_made_again(sampled, models):
    works = [embed_work(sampled, models[1], name) for name in ("one", "two")]
    for work in works:
        embed_shard(work, ALL)
    for kind in ("states", "actions"):
        (keys, one), (other_keys, two) = (features_of(work, kind) for work in works)
        assert keys == other_keys
        assert np.array_equal(one, two)


def test_features_do_not_depend_on_batches_or_shards(sampled, models):
    whole, apart = embed_work(sampled, models[1]), embed_work(sampled, models[1], "apart", batch=1)
    embed_shard(whole, ALL)
    for shard in make_shards(["cut", "lost", "won"], 1):
        embed_shard(apart, shard)
    for kind in ("states", "actions"):
        (keys, one), (other_keys, two) = (features_of(work, kind) for work in (whole, apart))
        assert keys == other_keys
        assert np.allclose(one, two, atol=1e-5)


def test_the_fingerprint_says_what_made_the_features(sampled, models):
    work = embed_work(sampled, models[1])
    embed_shard(work, ALL)
    extractor = cached_extractor(models[1], 1, "last_and_action")
    for kind in ("states", "actions"):
        found = FeatureStore(work.features / kind).open().fingerprint
        assert (found.model, found.layer, found.pooling) == (extractor.weights_hash, 1, "last_and_action")
        assert found.prompt == extractor.vlm.template.digest
        assert found.image == extractor.vlm.transform.description


def test_features_of_two_models_do_not_come_together(sampled, models):
    embed_shard(embed_work(sampled, models[1]), Shard(name="a", episode_ids=("cut",)))
    with pytest.raises(FingerprintMismatchError):
        embed_shard(embed_work(sampled, models[2]), Shard(name="b", episode_ids=("won",)))


def test_a_shard_of_features_that_is_there_is_left_alone_without_a_model(sampled, models):
    work = embed_work(sampled, models[1])
    embed_shard(work, ALL)
    before = content(work.features)
    assert embed_shard(embed_work(sampled, "no such model"), ALL) == 0
    assert content(work.features) == before


def test_a_shard_that_was_broken_off_between_its_two_files_is_completed(sampled, models):
    work = embed_work(sampled, models[1])
    embed_shard(work, ALL)
    before = content(work.features)
    (work.features / "states" / "all.arrow").unlink()
    torch.manual_seed(9)
    assert embed_shard(work, ALL) > 0
    assert content(work.features) == before


def test_episodes_in_which_nothing_was_done_have_states_only(sampled, models):
    work = embed_work(sampled, models[1])
    assert embed_shard(work, Shard(name="lost", episode_ids=("lost",))) == 1
    assert features_of(work, "states")[0] == [("lost", 0, None)]
    assert features_of(work, "actions")[0] == []
