"""The original's files go into stores on S3 and come back out of them like into and out of local ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from legacy_files import HORIZON, make_trajectories, save

from digiq_ray.core.errors import InputError
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.legacy.exporting import export_trajectories
from digiq_ray.store.legacy.importing import import_trajectories
from digiq_ray.store.legacy.settings import ImportSettings
from digiq_ray.store.legacy.tasks import import_task_lists

SETTINGS = ImportSettings(horizon=HORIZON)


def test_what_is_imported_to_s3_is_what_is_imported_locally(tmp_path, out, s3_url, read_content):
    path = save(tmp_path / "file.pt", make_trajectories("digiq"))
    first = import_trajectories(path, s3_url, settings=SETTINGS)
    second = import_trajectories(path, s3_url, settings=SETTINGS)
    assert (first["episodes_added"], second["episodes_added"]) == (2, 0)
    assert first["report"].startswith(f"{s3_url}/imports/")
    import_trajectories(path, out, settings=SETTINGS)
    remote, local = (list(EpisodeStore(f"{place}/episodes").episodes()) for place in (s3_url, out))
    assert remote == local
    export_trajectories(s3_url, tmp_path / "remote.pt")
    export_trajectories(out, tmp_path / "local.pt")
    assert (tmp_path / "remote.pt").read_bytes() == (tmp_path / "local.pt").read_bytes()


def test_other_settings_are_refused_on_s3_too(tmp_path, s3_url):
    path = save(tmp_path / "file.pt", make_trajectories("digiq"))
    import_trajectories(path, s3_url, settings=SETTINGS)
    with pytest.raises(InputError, match="horizon"):
        import_trajectories(path, s3_url, settings=ImportSettings(horizon=4))


def test_task_sets_can_lie_on_s3(s3_url):
    lists = [Path(__file__).parents[2] / "data" / "aitw" / "webshop_test.txt"]
    assert import_task_lists(lists, s3_url) == import_task_lists(lists, s3_url)
