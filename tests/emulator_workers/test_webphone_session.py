"""The web phone's server: events and frames over HTTP do what calls do, and strangers get nothing."""

from __future__ import annotations

import http.client
import io
import json
from urllib.parse import urlsplit

import pytest
from PIL import Image

from digiq_ray.core.tasks import Task
from emulator_workers.simphone.phone import CALM, SimPhone
from emulator_workers.simphone.screens import render
from emulator_workers.webphone.server import WebPhoneServer
from emulator_workers.webphone.session import BadEvent, PhoneSession

TASK = Task("web/0", "open the notes app", 10, "test", goal={"kind": "open", "app": "notes"}, seed=3)


@pytest.fixture
def session():
    session = PhoneSession()
    session.show(SimPhone(TASK, hazards=CALM))
    return session


@pytest.fixture
def url(session):
    pages = WebPhoneServer()
    url = pages.open(session)
    yield url
    pages.close(url)


def ask(url, method="GET", what="", body=None, host=None):
    """Status, headers and body of an answer."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=20)
    connection.request(method, where.path + what, body, {"Host": host or where.netloc})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(url, **event):
    status, _, body = ask(url, "POST", "event", json.dumps(event))
    return status, json.loads(body)["takes_text"] if status == 200 else None


def notes(session):
    return next(element for element in session.phone.elements() if element.name == "notes").centre


# ---- what the page says


def test_a_frame_is_the_phones_next_screen(session, url):
    twin = session.phone.clone()
    _, headers, body = ask(url, what="frame")
    twin.advance()
    assert headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(body)).tobytes() == render(twin).tobytes()
    assert session.phone.state == twin.state


def test_touches_and_text_reach_the_phone_and_answers_say_whether_text_can_be_typed(session, url):
    assert post(url, kind="tap", at=notes(session)) == (200, False)
    assert post(url, kind="tap", at=[0.5, 0.25]) == (200, True)
    assert post(url, kind="type", text="buy milk") == (200, True)
    assert session.phone.state.typed == "buy milk"
    assert post(url, kind="back") == (200, False)
    assert session.phone.state.notes == ("buy milk",)


def test_a_frame_says_whether_text_can_be_typed(session, url):
    assert ask(url, what="frame")[1]["X-Takes-Text"] == "0"
    session.event({"kind": "tap", "at": notes(session)})
    session.event({"kind": "tap", "at": [0.5, 0.25]})
    assert ask(url, what="frame")[1]["X-Takes-Text"] == "1"


def test_asking_whether_text_can_be_typed_changes_nothing(session):
    session.phone.state.loading = True
    twin = session.phone.clone()
    assert session._takes_text()
    assert session.phone.state == twin.state
    assert session.phone.random.getstate() == twin.random.getstate()


def test_a_swipe_reaches_the_phone(session):
    phone = session.phone
    phone.long_page, phone.state.screen = True, "product"
    session.event({"kind": "swipe", "at": [0.5, 0.8], "to": [0.5, 0.2]})
    assert phone.state.scrolled


def test_loading_the_page_is_the_home_key(session, url):
    post(url, kind="tap", at=notes(session))
    assert session.phone.state.screen == "notes"
    status, headers, body = ask(url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<canvas>" in body
    assert session.phone.state.screen == "home"


def test_a_phone_that_is_off_is_black_and_takes_nothing(session, url):
    session.show(None)
    assert post(url, kind="tap", at=[0.5, 0.5]) == (200, False)
    assert Image.open(io.BytesIO(ask(url, what="frame")[2])).convert("L").getextrema() == (0, 0)


# ---- what is no event


@pytest.mark.parametrize(
    "event",
    [{}, {"kind": "explode"}, {"kind": "tap"}, {"kind": "tap", "at": ["a", 1]}, {"kind": "type", "text": 3}, []],
)
def test_what_is_no_event_is_refused_and_changes_nothing(session, event):
    before = session.phone.clone().state
    with pytest.raises(BadEvent):
        session.event(event)
    assert session.phone.state == before


@pytest.mark.parametrize("body", ["", "no json", '{"kind": "explode"}'])
def test_a_bad_request_is_answered_as_one(url, body):
    assert ask(url, "POST", "event", body)[0] in (400, 404)
    assert ask(url, what="frame")[0] == 200


# ---- who may ask


def test_another_token_is_not_found(url):
    root = url.rsplit("/", 2)[0]
    assert ask(f"{root}/guess/", what="frame")[0] == 404
    assert ask(f"{root}/", what="")[0] == 404


def test_another_host_name_is_not_found(url):
    assert ask(url, what="frame", host="evil.example")[0] == 404


def test_what_the_judge_knows_is_not_served(url):
    assert ask(url, what="success")[0] == 404
    assert ask(url, "POST", "frame", "{}")[0] == 404


def test_two_phones_have_two_addresses_on_one_server(session):
    pages = WebPhoneServer()
    one, two = pages.open(session), pages.open(PhoneSession())
    try:
        assert one != two
        assert urlsplit(one).netloc == urlsplit(two).netloc
        pages.close(one)
        assert ask(one, what="frame")[0] == 404
        assert ask(two, what="frame")[0] == 200
    finally:
        pages.close(one)
        pages.close(two)


def test_the_server_ends_with_its_last_phone(session):
    pages = WebPhoneServer()
    url = pages.open(session)
    pages.close(url)
    pages.close(url)
    with pytest.raises(OSError, match=r"refused"):
        ask(url)
