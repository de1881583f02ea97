import json

import pytest

from digiq_ray.core.errors import InputError, StoreError
from emulator_workers.farm_state import STALE_SECONDS, FarmDirectory, FarmState, Request, WorkerState

NOW = 1_000_000.0
WORKER = WorkerState(name="worker-0", state="busy", pid=7, jobs=3, episodes=2, steps=20, utilisation=0.9)


def state_of(**options) -> FarmState:
    fields = {"pid": 1, "updated_at": NOW, "wanted": 1, "done": 2, "total": 5, "state": "running"}
    return FarmState(**fields | {"workers": (WORKER,)} | options)


@pytest.fixture
def farm(tmp_path):
    directory = FarmDirectory(tmp_path / "run" / "farm")
    directory.open()
    return directory


def test_a_state_comes_back_as_it_was_written(farm):
    state = state_of(losses={"died": 1}, device_errors={"SessionLost": 2}, waiting="1 worker waits")
    farm.write(state)
    assert farm.read() == state


def test_a_state_is_replaced_whole(farm):
    farm.write(state_of())
    farm.write(state_of(done=3))
    assert farm.read().done == 3
    assert [file.name for file in farm.path.glob("*state*")] == ["state.json"]


def test_a_run_without_a_farm_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no farm \(no farm/state.json\)"):
        FarmDirectory(tmp_path / "run" / "farm").read()


def test_a_state_of_another_version_is_refused(farm):
    (farm.path / "state.json").write_text(json.dumps({"surprise": 1}))
    with pytest.raises(StoreError, match="another version"):
        farm.read()


def test_requests_are_taken_once_and_in_order(farm):
    farm.write(state_of())
    asked = [Request("restart", "worker-0"), Request("resize", workers=4), Request("drain")]
    for request in asked:
        farm.ask(request, NOW)
    assert farm.take_requests() == asked
    assert farm.take_requests() == []


def test_a_new_farm_forgets_requests_to_the_one_before(farm):
    farm.write(state_of())
    farm.ask(Request("drain"), NOW)
    farm.open()
    assert farm.take_requests() == []


@pytest.mark.parametrize("text", ["", "[]", '{"verb": "explode"}', '{"verb": "drain", "extra": 1}'])
def test_a_request_that_cannot_be_read_is_dropped(farm, text, caplog):
    (farm.path / "requests" / "01.json").write_text(text)
    assert farm.take_requests() == []
    assert "is dropped" in caplog.text
    assert list((farm.path / "requests").iterdir()) == []


def test_a_worker_that_is_not_there_is_refused(farm):
    farm.write(state_of())
    with pytest.raises(InputError, match="no worker 'worker-9'; it has worker-0"):
        farm.ask(Request("restart", "worker-9"), NOW)


def test_a_lost_worker_can_be_asked_nothing(farm):
    farm.write(state_of(workers=(WorkerState(name="worker-0", state="lost"),)))
    with pytest.raises(InputError, match="it has none now"):
        farm.ask(Request("restart", "worker-0"), NOW)


def test_a_farm_that_has_ended_can_be_asked_nothing(farm):
    farm.write(state_of(state="ended"))
    with pytest.raises(InputError, match="has ended"):
        farm.ask(Request("drain"), NOW + 1e6)


def test_a_silent_farm_is_told_of(farm):
    farm.write(state_of())
    with pytest.raises(InputError, match=r"silent for 61 s \(process 1\)"):
        farm.ask(Request("drain"), NOW + STALE_SECONDS + 1)


def test_an_ended_farm_is_not_stale():
    assert not state_of(state="ended").is_stale(NOW + 1e6)
    assert state_of().is_stale(NOW + STALE_SECONDS + 1)


def test_the_last_lines_of_a_log(farm):
    farm.log_path("worker-0").write_text("one\ntwo\nthree\n")
    assert farm.log_lines("worker-0", 2) == ["two", "three"]


def test_a_log_that_is_not_there_is_refused(farm):
    farm.log_path("worker-0").write_text("one\n")
    with pytest.raises(InputError, match="it has those of worker-0"):
        farm.log_lines("worker-1", 2)
