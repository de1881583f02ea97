"""Configuration: files, overrides, and one line for whatever is wrong with either."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from digiq_ray.core.config import Difference, Section, config_hash, differences, dump_yaml, load_config
from digiq_ray.core.config_messages import dotted_keys
from digiq_ray.core.errors import ConfigError


class Optimiser(Section):
    learning_rate: float = Field(1e-4, gt=0)


class Critic(Section):
    gamma: float = Field(0.95, ge=0, le=1)
    hidden: tuple[int, ...] = (256, 256)
    objective: Literal["td", "mc"] = "td"
    optimiser: Optimiser = Optimiser()
    warm_up: Optimiser | None = None
    steps: int = 10
    log_every: int = 5

    @field_validator("hidden")
    @classmethod
    def _some_layer(cls, hidden: tuple[int, ...]) -> tuple[int, ...]:
        if not hidden:
            raise ValueError("name at least one layer")
        return hidden

    @model_validator(mode="after")
    def _logs(self) -> "Critic":
        if self.log_every > self.steps:
            raise ValueError("critic.log_every is above critic.steps")
        return self


class Settings(Section):
    seed: int = 0
    name: str = "run"
    directory: Path = Path("runs/demo")
    weights: dict[str, float] = Field(default_factory=dict)
    critic: Critic = Critic()


class NeedsPath(Section):
    store: Path


def failure(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes) -> Path:
        file = tmp_path / "run.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write_file


def test_without_file_and_overrides_the_defaults_hold():
    assert load_config(Settings, None) == Settings()


def test_a_file_sets_what_it_names_and_leaves_the_rest(write):
    config = load_config(Settings, write("seed: 7\ncritic:\n  gamma: 0.5\n  hidden: [8]\n"))
    assert (config.seed, config.critic.gamma, config.critic.hidden) == (7, 0.5, (8,))
    assert config.critic.steps == 10


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "critic:\n", "critic:\n  # gamma: 0.9\n"])
def test_an_empty_file_or_section_has_the_defaults(write, content):
    assert load_config(Settings, write(content)) == Settings()


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(write):
    config = load_config(Settings, write("seed: 7\ncritic: {gamma: 0.5}\n"), ["seed=8", "seed=9", "critic.steps=20"])
    assert (config.seed, config.critic.gamma, config.critic.steps) == (9, 0.5, 20)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("critic.hidden=[64, 32]", Difference("critic.hidden", [256, 256], [64, 32])),
        ("critic.optimiser.learning_rate=3e-5", Difference("critic.optimiser.learning_rate", 1e-4, 3e-5)),
        ("critic.warm_up.learning_rate=1", Difference("critic.warm_up", None, {"learning_rate": 1.0})),
        ("weights.tap=2", Difference("weights.tap", None, 2.0)),
        (" name = a=b", Difference("name", "run", "a=b")),
    ],
)
def test_an_override_changes_one_key(override, difference):
    assert differences(Settings(), load_config(Settings, None, [override])) == [difference]


@pytest.mark.parametrize("text", ["2024", "0123", "1e5", "", "yes", "2024-01-31", "null"])
def test_a_text_field_takes_the_text_as_it_is_written(text):
    config = load_config(Settings, None, [f"name={text}", f"directory={text}x/1"])
    assert config.name == text
    assert config.directory == Path(f"{text}x/1")


def test_an_override_of_a_section_that_an_alias_shares_leaves_the_other_alone(write):
    class Pair(Section):
        first: Optimiser = Optimiser()
        second: Optimiser = Optimiser()

    file = write("first: &same {learning_rate: 0.5}\nsecond: *same\n")
    pair = load_config(Pair, file, ["first.learning_rate=0.25"])
    assert (pair.first.learning_rate, pair.second.learning_rate) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sed", "seed"),
        ("critic.gama", "critic.gamma"),
        ("critc.gamma", "critic.gamma"),
        ("gamma", "critic.gamma"),
        ("optimiser.learning_rate", "critic.optimiser.learning_rate"),
        ("critic.optimiser.learningrate", "critic.optimiser.learning_rate"),
        ("critic.warm_up.learning_rte", "critic.warm_up.learning_rate"),
        ("seed.value", "seed"),
        ("critic.hidden.0", "critic.hidden"),
    ],
)
def test_an_override_of_an_unknown_key_names_it_and_the_nearest(key, nearest):
    assert failure(f"{key}=1") == f"--set: unknown key {key}; the nearest is {nearest}"


def test_even_a_key_like_no_other_is_answered_with_one_that_exists():
    nearest = failure("zzz=1").rpartition("the nearest is ")[2]
    assert nearest in dotted_keys(Settings)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("critic:\n  gama: 0.9\n", "unknown key critic.gama; the nearest is critic.gamma"),
        ("critc:\n  gamma: 0.9\n", "unknown key critc; the nearest is critic"),
        ("seed: x\nsed: 3\nzz: 1\n", "unknown key sed; the nearest is seed (and 2 more)"),
        ("1: 2\n", "unknown key 1; the nearest is "),
        ("critic: 3\n", "critic is 3 but should be a section with the keys gamma, hidden"),
        ("critic:\n  gamma: 1.5\n", "critic.gamma is 1.5 but should be less than or equal to 1"),
    ],
)
def test_a_wrong_key_or_value_in_a_file_names_the_file(write, content, line):
    file = write(content)
    assert failure(file=file).startswith(f"{file}: {line}")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("critic.gamma=abc", "critic.gamma is 'abc' but should be a valid number"),
        ("critic.gamma=.nan", "critic.gamma is nan but should be a finite number"),
        ("critic.objective=sarsa", "critic.objective is 'sarsa' but should be 'td' or 'mc'"),
        ("critic.hidden=[1, a]", "critic.hidden.1 is 'a' but should be a valid integer"),
        ("critic.hidden=[]", "critic.hidden is []: name at least one layer"),
        ("critic.log_every=11", "critic: critic.log_every is above critic.steps"),
        ("seed=", "seed is None but should be a valid integer"),
        ("critic=td", "critic is 'td' but should be a section"),
    ],
)
def test_a_wrong_value_names_its_key_what_was_given_and_what_is_expected(override, line):
    assert failure(override).startswith(f"--set: {line}")


def test_a_long_value_is_cut_in_the_message():
    assert len(failure(f"critic.gamma=[{'1, ' * 1000}1]")) < 200


def test_a_missing_required_key_is_named():
    with pytest.raises(ConfigError, match=r"^store is required but not given$"):
        load_config(NeedsPath, None)


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", ".a=3", "", "a b=3"])
def test_an_override_of_another_form_is_told_the_form(override):
    assert "the form is --set section.key=value" in failure(override)


@pytest.mark.parametrize("override", ["name=a: b", "critic={gamma: 0.5}", "seed=[1", "name=2024-13-45", "name=\x00"])
def test_a_value_that_is_no_scalar_or_list_is_refused(override):
    assert failure(override).startswith("--set ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("seed: 1\ncritic: [1\nname: x\n", 3),
        ("seed: 1\n\tname: x\n", 2),
        ("seed: 1\n  name: x\n", 2),
        ("x: !!python/object/apply:os.getcwd []\n", 1),
        ("seed: 1\n? [a]\n: 3\n", 2),
    ],
)
def test_broken_yaml_names_the_file_and_the_line(write, content, line):
    file = write(content)
    assert failure(file=file).startswith(f"{file}, line {line}: this is not YAML")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"seed: \x00", b"day: 2024-13-45", b"[" * 20_000])
def test_what_is_no_yaml_at_all_names_the_file(write, content):
    file = write(content)
    assert failure(file=file).startswith(f"{file}: this is not YAML")


@pytest.mark.parametrize("content", ["- seed\n- 1\n", "seed\n", "3\n"])
def test_a_file_that_is_no_mapping_names_the_file_and_line(write, content):
    file = write(content)
    assert failure(file=file).startswith(f"{file}, line 1: expected keys with values")


def test_a_missing_file_is_named(tmp_path):
    file = tmp_path / "none.yaml"
    assert failure(file=file) == f"the configuration file {file} does not exist; check the path"


def test_a_directory_is_no_configuration_file(tmp_path):
    assert f"the configuration file {tmp_path} cannot be read" in failure(file=tmp_path)


def test_a_section_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 3


def test_a_wrong_default_is_found():
    class Wrong(Section):
        gamma: float = Field(1.5, le=1)

    with pytest.raises(ConfigError, match=r"gamma is 1\.5"):
        load_config(Wrong, None)


configurations = st.builds(
    Settings,
    seed=st.integers(-(2**63), 2**63),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"])),
    weights=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.floats(-1e300, 1e300), max_size=3),
    critic=st.builds(Critic, gamma=st.floats(0, 1), hidden=st.lists(st.integers(1, 9), min_size=1).map(tuple)),
)


@given(configurations)
def test_the_dump_of_a_configuration_loads_as_the_same(tmp_path_factory, config):
    file = tmp_path_factory.getbasetemp() / "dump.yaml"
    file.write_text(dump_yaml(config), encoding="utf-8")
    again = load_config(Settings, file)
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_the_dump_keeps_the_order_of_the_fields():
    keys = [line.partition(":")[0] for line in dump_yaml(Settings()).splitlines() if line[0] not in " -"]
    assert keys == list(Settings.model_fields)


def test_the_hash_is_stable_and_independent_of_the_order_of_keys():
    class Pair(Section):
        b: float = 1.5
        a: int = 1

    class SwappedPair(Section):
        a: int = 1
        b: float = 1.5

    assert config_hash(Pair()) == config_hash(SwappedPair()) == "f43be02dd40029a8b64707d819f0d1e7"


@pytest.mark.parametrize("override", ["seed=1", "name=walk", "critic.optimiser.learning_rate=1", "weights.tap=0"])
def test_every_key_changes_the_hash(override):
    assert config_hash(load_config(Settings, None, [override])) != config_hash(Settings())


def test_equal_configurations_have_no_differences():
    assert differences(Settings(), Settings()) == []


def test_differences_are_sorted_and_hold_both_values():
    right = load_config(Settings, None, ["seed=3", "critic.gamma=0.5", "critic.hidden=[8]"])
    assert differences(Settings(), right) == [
        Difference("critic.gamma", 0.95, 0.5),
        Difference("critic.hidden", [256, 256], [8]),
        Difference("seed", 0, 3),
    ]
