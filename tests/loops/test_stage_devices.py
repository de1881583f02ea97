"""From the settings to what a worker is made of."""

from pathlib import Path

import pytest

from digiq_ray.core.config import load_config
from digiq_ray.core.errors import ConfigError
from digiq_ray.core.settings import RunSettings
from digiq_ray.loops.stages.devices import backend, environment_factory, farm_directory, worker_spec


def settings_of(**devices) -> RunSettings:
    return RunSettings.model_validate({"devices": devices})


def spec_of(settings: RunSettings):
    return worker_spec(
        settings, make_environment=environment_factory(settings), make_policy=lambda: None, store="episodes"
    )


def test_simulated_phones_share_a_thread_and_slow_devices_have_a_worker_each():
    simulated, chromium = spec_of(settings_of()), spec_of(settings_of(kind="chromium", retries=5, restart_every=9))
    assert (simulated.slots, simulated.concurrent) == (64, False)
    assert (chromium.slots, chromium.concurrent) == (1, True)
    assert (chromium.device_retries, chromium.restart_every) == (5, 9)


def test_the_backend_is_what_the_settings_say():
    made = backend(settings_of(kind="android", udids=["a", "b"], prepared=True, adb_port=5038, settle=False))
    assert (made.kind, made.udids, made.prepared, made.adb_port) == ("android", ("a", "b"), True, 5038)
    assert made.settle() is None


@pytest.mark.parametrize("words", [[], ["devices.udids=[a]", "devices.avd=b"]])
def test_android_needs_ids_or_an_avd(words):
    with pytest.raises(ConfigError, match=r"either devices\.udids or devices\.avd"):
        load_config(RunSettings, None, ["devices.kind=android", *words])


def test_a_farm_tells_its_state_in_the_directory_of_its_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert farm_directory(str(tmp_path / "episodes")) == tmp_path / "farm"
    assert farm_directory(str(tmp_path / "evaluation" / "digi_q" / "sampled")) == tmp_path / "farm"


def test_a_store_without_a_run_has_its_farm_beside_it_and_one_on_s3_has_none():
    assert farm_directory("somewhere/episodes") == Path("somewhere/farm")
    assert farm_directory("s3://bucket/run/episodes") is None
