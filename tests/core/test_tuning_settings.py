"""The settings of a VLM's training: what fits together, and what is refused in one line."""

import pytest

from digiq_ray.core.config import dump_yaml, load_config
from digiq_ray.core.errors import ConfigError
from digiq_ray.core.settings import RunSettings, TuningSettings


def test_adapters_survive_a_file(tmp_path):
    sets = ["tuning.method=lora", "tuning.rank=4", "tuning.targets=[q_proj, v_proj]", "tuning.vision=true"]
    chosen = load_config(RunSettings, None, sets)
    assert (chosen.tuning.rank, chosen.tuning.targets) == (4, ["q_proj", "v_proj"])
    for settings in (chosen, RunSettings()):
        (tmp_path / "config.yaml").write_text(dump_yaml(settings))
        assert load_config(RunSettings, tmp_path / "config.yaml") == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tuning.rank=8", "rank is of adapters, and method=full has none: set method=lora"),
        ("tuning.targets=[q_proj]", "targets is of adapters"),
        ("tuning.vision=true", "vision is of adapters"),
        ("tuning.method=qlora", "tuning.method"),
        ("tuning.precision=float16", "tuning.precision"),
    ],
)
def test_what_does_not_fit_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        load_config(RunSettings, None, [given])


def test_the_precision_is_chosen_from_the_device_unless_it_is_named():
    assert [TuningSettings().arithmetic(device) for device in ("cpu", "cuda")] == ["float32", "bfloat16"]
    assert TuningSettings(precision="bfloat16").arithmetic("cpu") == "bfloat16"
    assert TuningSettings(precision="float32").arithmetic("cuda") == "float32"
