import functools
import pickle

import pytest
from fake_phones import DicePolicy, page_task

from digiq_ray.core.errors import InputError
from digiq_ray.evaluation.judges import OracleJudge
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers import backends, naming
from emulator_workers.backends import Backend
from emulator_workers.devices.android import AndroidDevice
from emulator_workers.devices.base import SessionLost
from emulator_workers.devices.chromium import ChromiumDevice
from emulator_workers.emulator import EmulatorSettings
from emulator_workers.environment import Environment
from emulator_workers.jobs import make_jobs
from emulator_workers.pool import SerialPool
from emulator_workers.processes.leases import UdidLeases
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.webphone.device import WebPhoneDevice
from emulator_workers.worker import WorkerSpec


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing was used before, and no server is left."""
    monkeypatch.setattr(backends, "_USED", {})
    yield
    backends.end_servers()


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        (Backend(), SimulatedDevice),
        (Backend(kind="chromium"), WebPhoneDevice),
        (Backend(kind="chromium", home_url="http://127.0.0.1:1/"), ChromiumDevice),
        (Backend(kind="android", udids=("emulator-5554",)), AndroidDevice),
    ],
)
def test_each_kind_makes_its_device_without_starting_anything(backend, kind):
    made = backend.make()
    assert isinstance(made.device, kind)
    assert made.device.info is None
    assert made.end is None


def test_an_avd_brings_an_emulator_that_is_ended_with_the_device(monkeypatch):
    asked = []
    monkeypatch.setattr("emulator_workers.golden.check_golden", asked.append)
    for _ in range(2):
        made = Backend(kind="android", avd="phone").make()
        assert isinstance(made.device, AndroidDevice)
        assert made.end is not None
        made.end()
    assert asked == [EmulatorSettings(avd="phone")]


def test_no_emulator_is_made_of_an_avd_without_a_golden_snapshot(tmp_path, monkeypatch):
    monkeypatch.setenv("ANDROID_AVD_HOME", str(tmp_path))
    (tmp_path / "phone.avd").mkdir()
    (tmp_path / "phone.avd" / "config.ini").touch()
    (tmp_path / "phone.ini").touch()
    store = EpisodeStore.create(tmp_path / "episodes")
    spec = WorkerSpec(
        make_environment=functools.partial(make_backend_environment, Backend(kind="android", avd="phone")),
        make_policy=DicePolicy,
        store_path=str(store.path),
    )
    with pytest.raises(InputError) as raised:
        SerialPool(spec).run(make_jobs([page_task(1)], run="r"))
    assert str(raised.value) == "AVD 'phone' has no golden snapshot: run `digiq farm golden phone`"


def make_backend_environment(backend):
    made = backend.make()
    return Environment(made.device, OracleJudge(), on_close=made.end)


@pytest.mark.parametrize("named", [{}, {"udids": ("a",), "avd": "b"}])
def test_android_is_named_by_ids_or_by_an_avd(named):
    with pytest.raises(InputError, match="either"):
        Backend(kind="android", **named)


def test_a_backend_travels_to_another_process():
    backend = Backend(kind="android", udids=("a", "b"), prepared=True)
    assert pickle.loads(pickle.dumps(backend)) == backend


def test_devices_of_different_workers_have_different_names(monkeypatch):
    chromium, simulated = Backend(kind="chromium"), Backend()
    assert [chromium.make().device.name for _ in range(2)] == ["chromium-0", "chromium-1"]
    monkeypatch.setattr(naming, "_worker", "")
    naming.name_worker("worker-3")
    assert chromium.make().device.name == "worker-3/chromium-2"
    simulated.make().device.start()
    device = simulated.make().device
    device.start()
    assert device.info.name == "worker-3/simphone-1"


def test_a_phone_with_an_id_keeps_its_name_whoever_drives_it(monkeypatch):
    monkeypatch.setattr(naming, "_worker", "worker-3")
    assert Backend(kind="android", udids=("R58M123",)).make().device.name == "R58M123"


def test_a_phone_of_the_stub_is_named_after_its_worker(monkeypatch):
    monkeypatch.setattr(naming, "_worker", "worker-3")
    made = Backend(kind="stub").make()
    with pytest.raises(SessionLost, match=r"^worker-3/stub-0: no task"):
        made.device.screenshot()
    made.end()


def test_phones_are_dealt_out_in_turn_so_that_a_spare_takes_the_place_of_one_that_failed():
    backend = Backend(kind="android", udids=("a", "b", "c"))
    assert [backend.make().device.name for _ in range(4)] == ["a", "b", "c", "a"]


def test_a_phone_that_somebody_has_leased_is_passed_over():
    with UdidLeases().lease("farm-test-a"):
        backend = Backend(kind="android", udids=("farm-test-a", "farm-test-b"))
        assert [backend.make().device.name for _ in range(2)] == ["farm-test-b", "farm-test-b"]


def test_only_devices_that_take_their_time_want_threads_and_android_takes_a_resource():
    assert (Backend().slow, Backend().resources) == (False, {})
    assert (Backend(kind="chromium").slow, Backend(kind="chromium").resources) == (True, {})
    android = Backend(kind="android", udids=("a",))
    assert (android.slow, android.resources) == (True, {"android": 1.0})


@pytest.mark.parametrize(
    ("backend", "settles"),
    [
        (Backend(), False),
        (Backend(kind="chromium"), False),
        (Backend(kind="chromium", home_url="http://127.0.0.1:1/"), True),
        (Backend(kind="android", udids=("a",)), True),
        (Backend(kind="android", udids=("a",), settles=False), False),
        (Backend(settles=True), True),
    ],
)
def test_screens_that_change_in_their_own_time_are_waited_for(backend, settles):
    assert (backend.settle() is not None) == settles
