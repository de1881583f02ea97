"""Finding a model before anything is started for it."""

import pytest
from hub_fixtures import cached_model
from huggingface_hub.errors import LocalEntryNotFoundError

from digiq_ray.cli.main import main
from digiq_ray.core.errors import ModelError
from digiq_ray.vlm import hub
from digiq_ray.vlm.hub import find_model, weights_directory
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import SHIPPED


@pytest.fixture
def asked(monkeypatch):
    """What the hub was asked for; it has ``some/model`` and nothing else."""
    found = []

    def download(name: str, file: str) -> str:
        found.append((name, file))
        if name != "some/model":
            raise LocalEntryNotFoundError("An error happened. Please check your connection.")
        return file

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return found


def test_a_directory_is_found_without_the_hub(asked):
    assert find_model(SHIPPED) == SHIPPED
    assert asked == []


def test_a_directory_without_a_model_and_none_at_all_are_model_errors(asked, tmp_path):
    with pytest.raises(ModelError, match=r"there is no config\.json in it"):
        find_model(tmp_path)
    for place in (tmp_path / "nothing", "./nothing"):
        with pytest.raises(ModelError, match="there is no such directory"):
            find_model(place)
    assert asked == []


def test_an_id_is_asked_of_the_hub(asked):
    assert not find_model("some/model").exists()
    with pytest.raises(ModelError, match=r"'no/model': there is no such directory here, and the hub says: An error"):
        find_model("no/model")
    assert asked == [("some/model", "config.json"), ("no/model", "config.json")]


def test_the_weights_of_an_id_are_those_in_the_cache_of_the_hub(monkeypatch, tmp_path):
    snapshot = cached_model(monkeypatch, tmp_path, "some/model", SHIPPED)
    assert weights_directory("some/model") == snapshot
    assert weights_directory(SHIPPED) == SHIPPED
    with pytest.raises(ModelError, match="cannot load a model from 'no/model'"):
        weights_directory("no/model")


def test_an_id_has_the_template_that_was_saved_with_its_model(monkeypatch, tmp_path):
    cached_model(monkeypatch, tmp_path, "some/model", SHIPPED)
    by_id, by_path = Vlm.outline("some/model"), Vlm.outline(SHIPPED)
    assert by_path.template_name != "standard"
    assert (by_id.template_name, by_id.transform.fit, by_id.version) == (
        by_path.template_name,
        by_path.transform.fit,
        by_path.version,
    )
    (tmp_path / "models--some--model" / "snapshots" / ("0" * 40) / "digiq.json").unlink()
    assert Vlm.outline("some/model").template_name == "standard"


@pytest.mark.parametrize("words", [["serve", "no/model"], ["demo", "--set", "vlm.model=no/model"]])
def test_a_command_says_so_at_once(asked, capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("digiq: cannot load a model from 'no/model'")] == said
    assert list(tmp_path.iterdir()) == []
