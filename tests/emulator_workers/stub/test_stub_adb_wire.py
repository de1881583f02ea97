import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator_workers.stub.adb_wire import WireError, fail, okay, read_request, receive, request


@pytest.fixture
def ends():
    first, second = socket.socketpair()
    with first, second:
        yield first, second


@given(st.text(max_size=300))
def test_a_request_is_read_as_it_was_written(text):
    first, second = socket.socketpair()
    with first, second:
        first.sendall(request(text))
        assert read_request(second) == text


def test_a_length_is_four_hexadecimal_digits_of_bytes_not_of_characters():
    assert request("host:version") == b"000chost:version"
    assert request("ä") == b"0002\xc3\xa4"


def test_a_request_that_is_too_long_for_its_length_is_not_sent():
    with pytest.raises(ValueError, match="65536 bytes"):
        request("x" * 0x10000)


def test_answers_have_their_status_first():
    assert (okay(), okay("ab"), fail("no")) == (b"OKAY", b"OKAY0002ab", b"FAIL0002no")


def test_a_peer_that_has_closed_asks_nothing(ends):
    ends[0].close()
    assert read_request(ends[1]) is None


@pytest.mark.parametrize("data", [b"zzzz", b"00", b"0005abc", b"0002\xff\xfe"])
def test_what_is_no_request_is_an_error(ends, data):
    ends[0].sendall(data)
    ends[0].close()
    with pytest.raises(WireError):
        read_request(ends[1])


def test_parts_that_arrive_one_after_the_other_are_put_together(ends):
    for part in (b"ab", b"c", b"de"):
        ends[0].sendall(part)
    assert receive(ends[1], 5) == b"abcde"
