"""The settings of stage 1's labels: what fits together, and what is refused in one line."""

import pytest

from digiq_ray.core.config import dump_yaml, load_config
from digiq_ray.core.errors import ConfigError
from digiq_ray.core.settings import RunSettings


def test_boxes_and_metric_survive_a_file(tmp_path):
    sets = ["finetune.ignore_boxes=[[0, 0.9, 1, 1]]", "finetune.metric=mae", "finetune.threshold=5"]
    chosen = load_config(RunSettings, None, sets)
    assert chosen.finetune.ignore_boxes == [[0.0, 0.9, 1.0, 1.0]]
    (tmp_path / "config.yaml").write_text(dump_yaml(chosen))
    assert load_config(RunSettings, tmp_path / "config.yaml") == chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("finetune.metric=mae", "needs a threshold of its own"),
        ("finetune.ignore_boxes=[[0.5, 0, 0.5, 1]]", "is no box"),
        ("finetune.ignore_boxes=[[0, 0, 1]]", "ignore_boxes"),
        ("finetune.ignore_boxes=[[0, 0, 1, 2]]", "ignore_boxes"),
        ("finetune.patience=-1", "patience"),
    ],
)
def test_what_does_not_fit_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        load_config(RunSettings, None, [given])
