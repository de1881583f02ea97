import pytest
import torch
from vlm_helpers import ACTIONS, TASKS, alone, fresh, png

from digiq_ray.core.errors import ConfigError
from digiq_ray.vlm.features import FeatureExtractor, Pooling

LAYERS = (1, 2, 3)
CANDIDATES = [list(ACTIONS[:1]), list(ACTIONS), []]


@pytest.fixture(scope="module")
def states(tiny):
    screens = [tiny.transform.prepare(png(shift=shift)) for shift in (0, 40, 90)]
    prefixes = [tiny.prefix_ids(s, t, ()) for s, t in zip(screens, TASKS, strict=True)]
    return screens, prefixes


def extractor(vlm, layer, pooling=Pooling.LAST_AND_ACTION):
    return FeatureExtractor(fresh(vlm), layer=layer, pooling=pooling)


def close(got, want):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_features_of_a_state_are_transformers_hidden_states(tiny, states, layer):
    screens, prefixes = states
    found, _ = extractor(tiny, layer).extract(screens, prefixes, CANDIDATES)
    for row, screen, prefix in zip(found, screens, prefixes, strict=True):
        want = alone(tiny, screen, [*prefix, *tiny.act_ids()]).hidden_states[layer][0, -1]
        close(row, want)


@pytest.mark.parametrize("layer", LAYERS)
def test_features_of_an_action_are_the_last_token_and_the_mean_of_its_own(tiny, states, layer):
    screens, prefixes = states
    _, found = extractor(tiny, layer).extract(screens, prefixes, CANDIDATES)
    for rows, actions, screen, prefix in zip(found, CANDIDATES, screens, prefixes, strict=True):
        assert len(rows) == len(actions)
        for row, action in zip(rows, actions, strict=True):
            ids, span = tiny.change_ids(action)
            hidden = alone(tiny, screen, [*prefix, *ids]).hidden_states[layer][0]
            own = hidden[len(prefix) :][span]
            close(row, torch.cat([hidden[-1], own.mean(0)]))


def test_a_batch_gives_what_each_state_gives_alone(tiny, states):
    screens, prefixes = states
    one = extractor(tiny, 2)
    together = one.extract(screens, prefixes, CANDIDATES)
    for index in range(3):
        state, actions = one.extract([screens[index]], [prefixes[index]], [CANDIDATES[index]])
        close(together[0][index], state[0])
        close(together[1][index], actions[0])


def test_the_order_of_candidates_changes_only_their_order(tiny, states):
    screens, prefixes = states
    one = extractor(tiny, 2)
    _, (forward,) = one.extract(screens[:1], prefixes[:1], [list(ACTIONS)])
    _, (backward,) = one.extract(screens[:1], prefixes[:1], [list(ACTIONS[::-1])])
    close(forward, backward.flip(0))


def test_different_actions_have_different_features(tiny, states):
    screens, prefixes = states
    _, (rows,) = extractor(tiny, 2).extract(screens[:1], prefixes[:1], [list(ACTIONS)])
    distances = torch.cdist(rows, rows)
    assert float(distances[~torch.eye(len(rows), dtype=torch.bool)].min()) > 1e-2


def test_pooling_the_last_token_alone_leaves_the_mean_out(tiny, states):
    screens, prefixes = states
    both = extractor(tiny, 2)
    last = extractor(tiny, 2, Pooling.LAST)
    assert (last.state_dim, last.action_dim) == (tiny.hidden_size, tiny.hidden_size)
    assert (both.state_dim, both.action_dim) == (tiny.hidden_size, 2 * tiny.hidden_size)
    with_mean, without = (one.extract(screens, prefixes, CANDIDATES) for one in (both, last))
    close(with_mean[0], without[0])
    for wide, narrow in zip(with_mean[1], without[1], strict=True):
        close(wide[:, : last.action_dim], narrow)
        assert wide.shape[1:] == (both.action_dim,)


def test_states_without_candidates_have_features_too(tiny, states):
    screens, prefixes = states
    found, actions = extractor(tiny, 1).extract(screens, prefixes, [[], [], []])
    assert found.shape == (3, tiny.hidden_size)
    assert [rows.shape for rows in actions] == [(0, 2 * tiny.hidden_size)] * 3


@pytest.mark.parametrize(("given", "means"), [(-1, 3), (-2, 2), (-3, 1), (2, 2)])
def test_negative_layers_count_from_the_end(tiny, given, means):
    assert extractor(tiny, given).layer == means


@pytest.mark.parametrize("layer", [0, 4, -4, -5, 99])
def test_a_layer_that_is_not_there_is_a_config_error(tiny, layer):
    with pytest.raises(ConfigError, match="layers 1 to 3"):
        extractor(tiny, layer)


def test_later_layers_are_not_kept(tiny):
    one = extractor(tiny, 1)
    assert len(one.vlm.language_model.layers) == 1
    assert len(tiny.language_model.layers) == 3


def test_the_hash_is_that_of_the_whole_model(tiny):
    assert extractor(tiny, 1).weights_hash == tiny.weights_hash
