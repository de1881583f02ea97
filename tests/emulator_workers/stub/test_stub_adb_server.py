import socket
import time

import pytest
from stub_clients import AdbClient, Refusal, pixels, read_all

from digiq_ray.core.errors import InputError
from emulator_workers.stub.adb_wire import receive, request
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.faults import StubFault
from tests.emulator_workers.appium_testing import listens

UDID = "emulator-5554"


# ---- the host


def test_the_version_is_that_of_all_adb_clients_of_today(adb):
    assert adb.host("host:version") == "0029"


def test_devices_are_listed_with_their_state(adb, phone):
    assert adb.host("host:devices") == f"{UDID}\tdevice\n"
    phone.inject(StubFault.ADB_OFFLINE)
    assert adb.host("host:devices") == f"{UDID}\toffline\n"


def test_a_phone_can_be_chosen_in_every_way_that_clients_use(adb):
    for choice in (f"host:transport:{UDID}", "host:transport-any"):
        with adb.connect(choice, "shell:echo hello") as connection:
            assert read_all(connection) == b"hello\n"
    for choice in (f"host:tport:serial:{UDID}", "host:tport:any"):
        with adb.connect(choice) as connection:
            assert len(receive(connection, 8)) == 8
            connection.sendall(request("shell:echo hello"))
            assert read_all(connection) == b"OKAYhello\n"


@pytest.mark.parametrize("choice", ["host:transport:x", "host:tport:serial:x", "host-serial:x:get-state"])
def test_a_phone_that_is_not_there_is_refused_by_its_name(adb, choice):
    with pytest.raises(Refusal, match="device 'x' not found"):
        adb.connect(choice)


def test_any_phone_is_refused_if_there_are_several():
    with AndroidStub(2) as stub, pytest.raises(Refusal, match="more than one"):
        AdbClient(stub.adb_port).connect("host:transport-any")


def test_what_is_not_known_is_refused_and_reported(adb, stub):
    with pytest.raises(Refusal, match="unknown"):
        adb.connect("host:nonsense")
    with pytest.raises(Refusal, match="unknown"):
        adb.connect(f"host:transport:{UDID}", "sync:")
    assert adb.device(UDID, "shell:nonsense") == b""
    assert stub.unknown == {"adb host:nonsense": 1, "adb sync:": 1, "shell nonsense": 1}


def test_a_client_that_speaks_nonsense_harms_nobody(adb):
    with socket.create_connection(("127.0.0.1", adb.port), timeout=5) as connection:
        connection.sendall(b"GET ")
        assert read_all(connection) == b""
    assert adb.host("host:version") == "0029"


def test_a_server_that_is_asked_to_end_goes_on(adb):
    adb.connect("host:kill").close()
    assert adb.host("host:version") == "0029"


# ---- a phone


def test_shell_commands_are_answered(adb):
    assert adb.device(UDID, "shell:getprop ro.build.version.sdk") == b"28\n"
    assert adb.device(UDID, "shell:wm size") == b"Physical size: 96x192\n"
    assert b"io.appium.settings" in adb.device(UDID, "shell:ps -A")


def test_input_commands_reach_the_phone(adb, phone):
    adb.device(UDID, "shell:input tap 16 48")
    assert phone.screen.phone.state.screen != "home"
    adb.device(UDID, "shell:input keyevent KEYCODE_HOME")
    assert phone.screen.phone.state.screen == "home"


def test_screencap_gives_the_screen(adb, phone):
    assert pixels(adb.device(UDID, "exec:screencap -p")) == pixels(phone.screen.png())


def test_packages_can_be_installed(adb):
    with adb.connect(f"host:transport:{UDID}", "exec:cmd package 'install' -r -S 70000") as connection:
        connection.sendall(bytes(70_000))
        assert read_all(connection) == b"Success\n"


def test_a_dialog_of_an_app_that_does_not_respond_has_the_focus(adb, phone):
    assert b"Not Responding" not in adb.device(UDID, "shell:dumpsys window windows")
    phone.inject(StubFault.NOT_RESPONDING)
    assert b"mCurrentFocus=Window{5f1 u0 Application Not Responding" in adb.device(UDID, "shell:dumpsys window windows")


def test_the_instrumentation_stream_ends_with_force_stop(adb, phone):
    with adb.instrument(UDID) as stream:
        assert phone.instrumentation.running
        adb.device(UDID, "shell:am force-stop io.appium.uiautomator2.server")
        assert b"INSTRUMENTATION_CODE: -1" in read_all(stream)
    assert not phone.instrumentation.running


def test_a_client_that_leaves_the_instrumentation_stream_ends_the_server(adb, phone):
    adb.instrument(UDID).close()
    deadline = time.monotonic() + 5
    while phone.instrumentation.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not phone.instrumentation.running


def test_a_second_instrumentation_ends_the_first(adb, phone):
    with adb.instrument(UDID) as first, adb.instrument(UDID):
        assert b"INSTRUMENTATION_CODE" in read_all(first)
        assert phone.instrumentation.running


# ---- forwarded ports


def test_a_port_is_forwarded_listed_and_freed(adb):
    port = adb.forward(UDID)
    assert adb.host("host:list-forward") == f"{UDID} tcp:{port} tcp:6790\n"
    assert listens(port)
    adb.connect(f"host-serial:{UDID}:killforward:tcp:{port}").close()
    assert not listens(port)
    assert adb.host("host:list-forward") == ""


def test_a_forwarded_port_leads_elsewhere_once_it_is_forwarded_again(adb):
    port = adb.forward(UDID)
    assert adb.forward(UDID, port, "tcp:7810") == port
    assert adb.host("host:list-forward") == f"{UDID} tcp:{port} tcp:7810\n"


def test_a_connection_to_a_port_on_which_the_phone_has_no_server_is_closed(adb):
    with socket.create_connection(("127.0.0.1", adb.forward(UDID, 0, "tcp:7810")), timeout=5) as connection:
        assert connection.recv(1) == b""


def test_a_port_that_is_taken_cannot_be_forwarded(adb):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Refusal, match="Address already in use"):
        adb.forward(UDID, taken.getsockname()[1])


def test_a_port_that_is_not_forwarded_cannot_be_freed(adb):
    with pytest.raises(Refusal, match="listener 'tcp:1' not found"):
        adb.connect("host:killforward:tcp:1")


def test_only_tcp_ports_are_forwarded(adb):
    with pytest.raises(Refusal, match="tcp ports only"):
        adb.connect(f"host-serial:{UDID}:forward:localabstract:x;tcp:1")


# ---- faults


def test_an_offline_phone_is_refused_and_its_forwarded_ports_are_cut(adb, phone):
    port = adb.forward(UDID)
    phone.inject(StubFault.ADB_OFFLINE)
    assert not listens(port)
    for call in (lambda: adb.device(UDID, "shell:echo hello"), lambda: adb.forward(UDID)):
        with pytest.raises(Refusal, match="device offline"):
            call()
    assert adb.host(f"host-serial:{UDID}:get-state") == "offline"


def test_a_phone_that_goes_offline_ends_its_instrumentation_stream(adb, phone):
    with adb.instrument(UDID) as stream:
        phone.inject(StubFault.ADB_OFFLINE)
        read_all(stream)
    assert not phone.instrumentation.running


@pytest.mark.parametrize("mend", ["restore", "reboot", "reconnect"])
def test_an_offline_phone_comes_back(adb, phone, mend):
    phone.inject(StubFault.ADB_OFFLINE)
    if mend == "reconnect":
        assert adb.host("host:reconnect-offline") == f"reconnecting {UDID} [offline]\n"
    else:
        getattr(phone, mend)()
    assert adb.host(f"host-serial:{UDID}:get-state") == "device"


def test_a_client_waits_for_an_offline_phone(adb, phone):
    phone.inject(StubFault.ADB_OFFLINE)
    with adb.connect(f"host-serial:{UDID}:wait-for-any-device") as connection:
        phone.restore()
        assert read_all(connection) == b"OKAY"


def test_a_client_waits_for_a_phone_to_go(adb, phone):
    with adb.connect(f"host-serial:{UDID}:wait-for-any-disconnect") as connection:
        phone.inject(StubFault.ADB_OFFLINE)
        assert read_all(connection) == b"OKAY"


def test_a_port_clash_strikes_the_next_session_once(adb, phone):
    phone.inject(StubFault.PORT_CLASH)
    assert adb.forward(UDID, 0, "tcp:7810")
    with pytest.raises(Refusal, match="Address already in use"):
        adb.forward(UDID)
    assert adb.forward(UDID)


def test_a_phone_can_be_rebooted_by_adb(adb, phone):
    port = adb.forward(UDID)
    assert adb.device(UDID, "reboot:") == b""
    assert not listens(port)
    assert adb.device(UDID, "shell:getprop sys.boot_completed") == b"1\n"


# ---- life


def test_nothing_listens_after_the_end():
    with AndroidStub(2) as stub:
        adb, ports = AdbClient(stub.adb_port), [stub.adb_port]
        ports += [adb.forward(udid) for udid in stub.phones]
        stream = adb.instrument(UDID)
        assert all(map(listens, ports))
    assert not any(map(listens, ports))
    read_all(stream)  # it ends, or this times out; whether the last words get through is a matter of luck, as with adb
    stream.close()


def test_the_server_listens_while_a_phone_is_plugged_in():
    stub = AndroidStub(2)
    first, second = stub.phones.values()
    assert stub.adb_port == 0
    first.ensure()
    second.ensure()
    port = stub.adb_port
    assert (first.adb_port, second.adb_port) == (port, port)
    first.unplug()
    assert AdbClient(port).host("host:devices") == "emulator-5556\tdevice\n"
    second.unplug()
    assert not listens(port)
    first.ensure()
    assert listens(first.adb_port)
    stub.stop()
    stub.stop()


def test_stubs_do_not_get_in_each_others_way():
    with AndroidStub(1) as one, AndroidStub(1) as other:
        assert one.adb_port != other.adb_port
        one.phones[UDID].inject(StubFault.ADB_OFFLINE)
        assert AdbClient(other.adb_port).host(f"host-serial:{UDID}:get-state") == "device"


def test_a_phone_that_was_removed_gives_its_serial_free():
    stub = AndroidStub(2)
    stub.remove(stub.phones[UDID])
    assert list(stub.phones) == ["emulator-5556"]
    assert stub.add().udid == UDID


def test_serials_are_unique():
    stub = AndroidStub(["left"])
    with pytest.raises(InputError, match="'left'"):
        stub.add("left")


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            AndroidStub(1, port=port).__enter__()
