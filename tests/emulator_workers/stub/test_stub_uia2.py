import http.client
import threading
import time

import pytest
from stub_clients import SECONDS, Uia2Client, pixels, read_all

from emulator_workers.stub.faults import PlannedFault, StubFault, StubFaultPlan
from emulator_workers.stub.phone import StubPhone
from emulator_workers.stub.screen import IDLE
from emulator_workers.stub.uia2 import ELEMENT_KEY
from tests.emulator_workers.appium_testing import listens

BROKEN = (http.client.HTTPException, OSError)


def focus(phone: StubPhone) -> None:
    notes = next(element for element in phone.screen.phone.elements() if element.name == "notes")
    phone.screen.phone.tap(*notes.centre)
    phone.screen.phone.tap(0.5, 0.25)
    assert phone.screen.takes_text()


def state(phone: StubPhone):
    return phone.screen.phone.state


# ---- what a session does


def test_the_screenshot_is_the_screen(uia2, phone):
    assert pixels(uia2.screenshot()) == pixels(phone.screen.png())


def test_touches_reach_the_phone(uia2, phone):
    assert uia2.tap(16, 48) == (200, None)
    assert state(phone).screen != "home"


def test_keys_reach_the_phone(uia2, phone):
    uia2.tap(16, 48)
    assert uia2.post("/appium/device/press_keycode", {"keycode": 3}) == (200, None)
    assert state(phone).screen == "home"


def test_text_goes_to_the_element_that_has_the_focus(uia2, phone):
    focus(phone)
    status, element = uia2.get("/element/active")
    assert status == 200
    assert uia2.post(f"/element/{element[ELEMENT_KEY]}/value", {"text": "buy milk"}) == (200, None)
    assert state(phone).typed == "buy milk"


def test_nothing_has_the_focus_at_first(uia2):
    for status, value in (uia2.get("/element/active"), uia2.post("/element/focused/value", {"text": "x"})):
        assert (status, value["error"]) == (404, "no such element")


def test_keys_without_a_focus_are_lost(uia2, phone):
    keys = [{"type": "keyDown", "value": "x"}, {"type": "keyUp", "value": "x"}]
    assert uia2.post("/actions", {"actions": [{"type": "key", "id": "k", "actions": keys}]}) == (200, None)
    assert state(phone).typed == ""


def test_a_touch_beside_the_screen_is_refused(uia2):
    status, value = uia2.tap(96, 0)
    assert (status, value["error"]) == (500, "move target out of bounds")


def test_what_are_no_actions_is_refused(uia2):
    status, value = uia2.post("/actions", {"actions": [{"type": "pointer"}]})
    assert (status, value["error"]) == (400, "invalid argument")


def test_the_window_is_as_large_as_the_screenshot(uia2):
    assert uia2.get("/window/current/size") == (200, {"width": 96, "height": 192})


def test_what_is_not_known_is_refused_and_reported(uia2, stub):
    status, value = uia2.get("/nonsense")
    assert (status, value["error"]) == (404, "unknown command")
    assert stub.unknown == {"UiAutomator2 GET /nonsense": 1}


def test_another_session_is_refused(uia2):
    status, value = uia2.call("GET", "/session/another/screenshot")
    assert (status, value["error"]) == (404, "invalid session id")


def test_deleting_the_session_ends_the_server(adb, phone):
    with adb.instrument(phone.udid) as stream:
        client = Uia2Client(adb.forward(phone.udid))
        client.open()
        assert client.call("GET", "/sessions")[1] == [{"id": client.session}]
        assert client.call("DELETE", f"/session/{client.session}") == (200, None)
        assert b"INSTRUMENTATION_CODE: -1" in read_all(stream)
        client.close()
    assert not phone.instrumentation.running


def test_a_request_that_is_too_large_breaks_the_connection(uia2):
    with pytest.raises(BROKEN):
        uia2.post("/keys", {"text": "x" * (1 << 20)})


# ---- a server that does not run


def test_calls_break_while_the_server_does_not_run(adb, phone):
    client = Uia2Client(adb.forward(phone.udid))
    with pytest.raises(BROKEN):
        client.call("GET", "/sessions")


def test_the_status_is_answered_once_the_server_runs(adb, phone):
    client = Uia2Client(adb.forward(phone.udid))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.call("GET", "/status")))
    asking.start()
    with adb.instrument(phone.udid):
        asking.join(SECONDS)
        assert answers[0][1]["ready"] is True
    client.close()


def test_the_status_of_a_server_that_has_crashed_is_not_waited_for(adb, phone):
    with adb.instrument(phone.udid):
        phone.inject(StubFault.UIA2_CRASH)
    client = Uia2Client(adb.forward(phone.udid))
    with pytest.raises(BROKEN):
        client.call("GET", "/status")


# ---- faults


def test_a_crash_breaks_connections_but_keeps_the_port(uia2, adb, phone):
    port = int(adb.host("host:list-forward").split()[1].removeprefix("tcp:"))
    phone.inject(StubFault.UIA2_CRASH)
    with pytest.raises(BROKEN):
        uia2.screenshot()
    assert listens(port)


def test_a_crash_is_told_on_the_instrumentation_stream(adb, phone):
    with adb.instrument(phone.udid) as stream:
        phone.inject(StubFault.UIA2_CRASH)
        assert b"Process crashed" in read_all(stream)


def test_a_new_instrumentation_mends_a_crash(adb, phone):
    with adb.instrument(phone.udid):
        phone.inject(StubFault.UIA2_CRASH)
    with adb.instrument(phone.udid):
        client = Uia2Client(adb.forward(phone.udid))
        client.open()
        assert client.screenshot()
        client.close()


def test_a_thief_has_another_session(uia2, adb, phone):
    stolen = uia2.session
    phone.inject(StubFault.STOLEN_SESSION)
    uia2.close()
    client = Uia2Client(adb.forward(phone.udid))
    assert client.call("GET", f"/session/{stolen}/screenshot")[1]["error"] == "invalid session id"
    assert client.call("GET", "/sessions")[1] != [{"id": stolen}]
    client.close()


def test_a_truncated_screenshot_is_the_first_half(uia2, phone):
    whole = uia2.screenshot()
    phone.inject(StubFault.TRUNCATED_SCREENSHOT)
    assert uia2.screenshot() == whole[: len(whole) // 2]
    assert uia2.screenshot() == whole


def test_a_frozen_screenshot_is_the_last_one_for_as_many_shots_as_said(uia2, phone):
    before = uia2.screenshot()
    phone.inject(StubFault.FROZEN_SCREENSHOT, shots=2)
    uia2.tap(16, 48)
    shots = [uia2.screenshot() for _ in range(3)]
    assert shots[:2] == [before, before]
    assert shots[2] != before


def test_a_screenshot_of_the_wrong_size_is_turned(uia2, phone):
    phone.inject(StubFault.WRONG_SIZE)
    assert pixels(uia2.screenshot()).startswith(b"(192, 96)")
    assert pixels(uia2.screenshot()).startswith(b"(96, 192)")


def test_a_slow_screenshot_comes_late(uia2, phone):
    phone.inject(StubFault.SLOW_SCREENSHOT, seconds=0.3)
    began = time.monotonic()
    assert uia2.screenshot()
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("end", ["restore", "unplug"])
def test_a_slow_screenshot_is_not_waited_for_at_the_end(adb, phone, end):
    phone.inject(StubFault.SLOW_SCREENSHOT, seconds=100 * SECONDS)
    shots = []
    stream = adb.connect(f"host:transport:{phone.udid}", "exec:screencap -p")
    asking = threading.Thread(target=lambda: shots.append(read_all(stream)))
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    getattr(phone, end)()
    asking.join(SECONDS)
    assert len(shots) == 1
    stream.close()


def test_a_restore_ends_the_faults_of_the_picture(adb, phone):
    for kind in (StubFault.TRUNCATED_SCREENSHOT, StubFault.WRONG_SIZE, StubFault.SLOW_SCREENSHOT):
        phone.inject(kind, shots=100, seconds=100)
    phone.restore()
    assert pixels(adb.device(phone.udid, "exec:screencap -p")) == pixels(phone.screen.png())


def test_faults_are_counted_when_they_strike(phone):
    phone.inject(StubFault.WRONG_SIZE, shots=5)
    phone.inject(StubFault.WRONG_SIZE)
    assert {kind: count for kind, count in phone.injected.items() if count} == {StubFault.WRONG_SIZE: 2}


def test_a_planned_fault_strikes_at_its_frame(stub, adb):
    plan = StubFaultPlan(faults=(PlannedFault(StubFault.WRONG_SIZE, step=2, episode=1),))
    phone = stub.add("planned", plan=plan)
    phone.ensure()
    sizes = []
    for _ in range(2):
        phone.begin(IDLE)
        for _ in range(4):
            phone.tick()
            sizes.append(pixels(adb.device("planned", "exec:screencap -p"))[:8] == b"(192, 96")
    assert sizes == [False] * 6 + [True, False]
    assert phone.injected[StubFault.WRONG_SIZE] == 1
