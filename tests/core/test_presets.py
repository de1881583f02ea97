"""Presets: values below what is given."""

import pytest

from digiq_ray.core.config import dump_yaml, load_config
from digiq_ray.core.errors import ConfigError
from digiq_ray.core.presets import PRESETS
from digiq_ray.core.settings import RunSettings


def test_every_value_of_a_preset_is_a_setting_that_differs_from_the_default():
    for name, sections in PRESETS.items():
        given, default = load_config(RunSettings, None, [f"preset={name}"]), RunSettings()
        for section, values in sections.items():
            for key, value in values.items():
                assert getattr(getattr(given, section), key) == value
            assert any(getattr(getattr(default, section), key) != value for key, value in values.items())


def test_the_default_of_a_long_horizon_is_its_preset():
    found = load_config(RunSettings, None, ["tasks.set=webshop", "critic.gamma=0.8"])
    assert found.critic == load_config(RunSettings, None, ["preset=long", "critic.gamma=0.8"]).critic
    assert found.preset == "long"
    assert found.critic.n_step != RunSettings().critic.n_step
    assert load_config(RunSettings, None, ["tasks.set=webshop", "preset=default"]).critic == RunSettings().critic


def test_what_is_given_beats_the_preset():
    found = load_config(RunSettings, None, ["preset=legacy", "critic.tau=0.5"])
    assert (found.critic.tau, found.critic.batch) == (0.5, 128)


def test_a_written_configuration_reads_back_equal(tmp_path):
    found = load_config(RunSettings, None, ["preset=legacy", "critic.n_step=3"])
    (tmp_path / "config.yaml").write_text(dump_yaml(found))
    assert load_config(RunSettings, tmp_path / "config.yaml") == found


def test_an_unknown_preset_is_one_line():
    with pytest.raises(ConfigError, match=r"preset.*'default', 'long', 'paper' or 'legacy'"):
        load_config(RunSettings, None, ["preset=papper"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("critic.low=2", "low=2 must lie below high=1"),
        ("policy.n=17", "policy.n=17 candidates cannot be drawn from candidates.k=16"),
        ("critic.backup_support=17", "critic.backup_support=17 can never be reached with 16 samples"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(RunSettings, None, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["critic.aggregate=pessimistic", "critic.heads=1"], "set heads to 2 or more"),
        (["critic.objective=mc", "critic.backup_support=2"], "objective=mc has no backups"),
        (["critic.backup=executed", "critic.backup_support=2"], "backup=executed uses no candidates"),
        (
            ["critic.objective=mc", "critic.backup_probability=0.1"],
            "objective=mc has no backups: leave .*_probability at 0",
        ),
        (["critic.backup=executed", "critic.backup_probability=0.1"], "backup=executed uses no candidates"),
        (["critic.backup_support=2", "critic.backup_probability=0.1"], "two forms of one rule"),
        (["policy.min_probability=0.1"], "min_support=3 are two forms of one rule: set min_support to 1"),
        (["policy.max_novelty=0"], "max_novelty"),
        (["policy.n=2"], "policy.min_support=3 can never be reached with 2 samples"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(RunSettings, None, overrides)
