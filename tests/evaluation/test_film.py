import base64

import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.evaluation.film import CandidateView, FilmStrip, FrameView, data_uri, strip_pages


def candidate(text: str, q: float, *, count: int = 1, chosen: bool = False, x: float | None = None) -> CandidateView:
    return CandidateView(text, x, None if x is None else 0.5, q, q - 0.5, count, chosen)


@pytest.fixture
def draw(make_screen):
    def make(action: str, **fields) -> dict:
        frame = FrameView(make_screen(), action, **fields)
        return strip_pages([FilmStrip("Before", "task", "done", True, [frame])])[0]["frames"][0]

    return make


def test_a_tap_is_a_ring_at_its_place(draw):
    frame = draw("tap 0.25 0.50", x=0.25, y=0.5)
    assert frame["ring"] == (25.0, 100.0)
    assert frame["arrow"] is None


def test_a_swipe_is_an_arrow_with_its_tip_where_the_finger_lifts(draw):
    frame = draw("swipe", x=0.5, y=0.8, x2=0.5, y2=0.2)
    assert frame["ring"] is None
    assert frame["arrow"]["start"] == (50.0, 160.0)
    assert frame["arrow"]["head"].startswith("50.0,40.0 ")
    assert frame["arrow"]["neck"] == (50.0, 49.0)


def test_a_swipe_to_where_it_began_is_drawn_too(draw):
    assert draw("swipe", x=0.5, y=0.5, x2=0.5, y2=0.5)["arrow"]["start"] == (50.0, 100.0)


def test_an_action_without_a_place_is_a_caption(draw):
    frame = draw("type red mug")
    assert (frame["touch"], frame["ring"], frame["arrow"]) == (False, None, None)


def test_candidates_are_sorted_by_q(draw):
    frame = draw("home", candidates=[candidate("a", 0.2), candidate("b", 0.9, chosen=True), candidate("c", 0.5)])
    assert [(item["text"], item["chosen"]) for item in frame["candidates"]] == [("b", True), ("c", False), ("a", False)]
    assert [item["advantage"] for item in frame["candidates"]] == ["+0.40", "0.00", "−0.30"]


def test_only_the_first_candidates_are_listed_and_the_chosen_one(draw):
    many = [candidate(str(index), 1 - index / 20, chosen=index == 11) for index in range(12)]
    frame = draw("home", candidates=many)
    assert [item["text"] for item in frame["candidates"]] == ["0", "1", "2", "3", "4", "5", "11"]
    assert frame["left_out"] == 5


def test_bars_of_advantage_share_one_scale_in_a_strip(make_screen):
    frames = [FrameView(make_screen(), "home", candidates=[candidate("a", q)]) for q in (0.9, 0.4)]
    (strip,) = strip_pages([FilmStrip("Before", "task", "done", True, frames)])
    assert [frame["candidates"][0]["length"] for frame in strip["frames"]] == [50.0, 12.5]


def test_touching_candidates_are_dots_that_grow_with_their_count(draw):
    rare, often = candidate("tap", 0.9, count=1, x=0.1), candidate("tap", 0.1, count=9, x=0.6)
    dots = draw("home", candidates=[rare, often, candidate("back", 0.5)])["dots"]
    assert [(dot["at"], dot["good"]) for dot in dots] == [((10.0, 100.0), True), ((60.0, 100.0), False)]
    assert dots[0]["radius"] < dots[1]["radius"]


def test_strips_without_frames_are_left_out():
    assert strip_pages([FilmStrip("Before", "task", "done", True, [])]) == []


def test_a_screen_that_fits_is_embedded_as_it_is(make_screen):
    screen = make_screen(50, 100)
    uri, ratio = data_uri(screen, 100_000)
    assert uri == f"data:image/png;base64,{base64.b64encode(screen).decode()}"
    assert ratio == 2.0


def test_a_screen_that_is_too_large_is_made_smaller_in_its_proportions(make_screen):
    screen = make_screen(600, 1200, noise=True)
    uri, ratio = data_uri(screen, 20_000)
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(base64.b64decode(uri.partition(",")[2])) <= 20_000
    assert ratio == 2.0


@pytest.mark.parametrize("broken", [b"", b"not an image"])
def test_a_screen_that_is_no_image_is_refused(broken):
    with pytest.raises(InputError, match="not an image"):
        data_uri(broken, 1000)


def test_a_screen_that_is_cut_off_is_refused(make_screen):
    screen = make_screen(200, 400, noise=True)
    with pytest.raises(InputError, match="not an image"):
        data_uri(screen[: len(screen) // 2], 1000)
