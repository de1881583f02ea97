import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from digiq_ray.core.errors import InputError
from emulator_workers.devices.base import Frame
from emulator_workers.settle import (
    Region,
    SettleSettings,
    Tag,
    changed_share,
    is_blank,
    learn_regions,
    picture_of,
    settle,
)

SETTINGS = SettleSettings(
    stable_seconds=0.3, poll_seconds=0.1, deadline_seconds=2.0, change_seconds=0.6, blank_seconds=1.5
)
CLOCK = Region(0.0, 0.0, 1.0, 0.1)


def screen(number: int, *, clock: int = 0, size=(60, 100)) -> bytes:
    """A grey screen with a box whose place is the number, and a clock in the upper tenth."""
    image = Image.new("RGB", size, (120, 120, 120))
    draw = ImageDraw.Draw(image)
    top = 20 + 7 * (number % 10)
    draw.rectangle((10, top, 50, top + 5), fill=(20, 60, 200))
    draw.rectangle((2 + 3 * (clock % 15), 2, 5 + 3 * (clock % 15), 8), fill=(0, 0, 0))
    return encoded(image)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


WHITE, BLACK = (encoded(Image.new("RGB", (60, 100), colour)) for colour in ("white", "black"))


class Film:
    """Screens by the time since the beginning, on a clock that only waiting and taking frames move."""

    def __init__(self, *scenes: tuple[float, bytes], frame_seconds: float = 0.0) -> None:
        self.now = 0.0
        self.taken: list[float] = []
        self._scenes, self._frame_seconds = scenes, frame_seconds

    def take(self) -> Frame:
        self.now += self._frame_seconds
        self.taken.append(self.now)
        shown = [image for begins, image in self._scenes if begins <= self.now][-1]
        return Frame(shown, "image/png", 60, 100, self.now)

    def wait(self, seconds: float) -> None:
        assert seconds > 0, "a wait of no time would spin"
        self.now += seconds

    def settle(self, settings=SETTINGS, before: bytes | None = None):
        return settle(self.take, settings, before=before, clock=lambda: self.now, wait=self.wait)


def test_a_screen_that_stands_still_is_taken_after_the_stable_time():
    film = Film((0, screen(1)))
    settled = film.settle()
    assert (settled.tag, settled.frame.image) == (None, screen(1))
    assert film.now == pytest.approx(SETTINGS.stable_seconds)


def test_the_wait_begins_anew_with_each_change():
    film = Film(*((0.2 * n, screen(n)) for n in range(5)))
    settled = film.settle(before=screen(9))
    assert (settled.tag, settled.frame.image) == (None, screen(4))
    assert 0.8 + 0.3 <= film.now <= 0.8 + 0.3 + 0.2


def test_a_screen_that_goes_on_moving_is_taken_at_the_deadline():
    film = Film(*((0.1 * n, screen(n)) for n in range(100)))
    assert film.settle().tag is Tag.UNSETTLED
    assert film.now == pytest.approx(SETTINGS.deadline_seconds)


def test_what_moves_in_an_ignored_region_does_not_count():
    film = Film(*((0.1 * n, screen(1, clock=n)) for n in range(100)))
    settings = SettleSettings(stable_seconds=0.3, ignore=(CLOCK,))
    assert film.settle(settings).tag is None
    assert film.now == pytest.approx(0.3)


@pytest.mark.parametrize("empty", [WHITE, BLACK])
def test_an_empty_screen_is_waited_for(empty):
    film = Film((0, empty), (0.9, screen(2)))
    settled = film.settle(before=screen(1))
    assert (settled.tag, settled.frame.image) == (None, screen(2))
    assert film.now >= 0.9 + 0.3


def test_a_screen_that_stays_empty_is_tagged():
    film = Film((0, WHITE))
    assert film.settle(before=screen(1)).tag is Tag.BLANK
    assert film.now == pytest.approx(SETTINGS.blank_seconds)


def test_a_late_change_after_an_action_is_waited_for():
    film = Film((0, screen(1)), (0.5, screen(2)))
    settled = film.settle(before=screen(1))
    assert (settled.tag, settled.frame.image) == (None, screen(2))


def test_a_screen_without_any_change_after_an_action_is_tagged_frozen():
    film = Film((0, screen(1)))
    assert film.settle(before=screen(1)).tag is Tag.FROZEN
    assert film.now == pytest.approx(SETTINGS.change_seconds)


def test_a_moving_clock_is_no_effect_of_an_action():
    film = Film(*((0.1 * n, screen(1, clock=n)) for n in range(100)))
    settings = SettleSettings(stable_seconds=0.3, change_seconds=0.6, ignore=(CLOCK,))
    assert film.settle(settings, before=screen(1)).tag is Tag.FROZEN


def test_a_slow_device_is_not_asked_faster_than_it_answers_and_costs_no_more_waits():
    film = Film((0, screen(1)), frame_seconds=0.4)
    settled = film.settle()
    assert settled.looks == 2
    assert film.now <= 0.4 + 0.3 + 0.4


def test_frames_are_polled_at_the_settings_pace():
    film = Film((0, screen(1)))
    film.settle()
    assert np.diff(film.taken) == pytest.approx([0.1, 0.1, 0.1])


def test_the_last_frame_is_asked_for_so_that_it_comes_when_the_screen_has_been_stable_for_long_enough():
    film = Film((0, screen(1)), frame_seconds=0.09)
    settled = film.settle()
    assert film.taken[-1] - film.taken[0] == pytest.approx(SETTINGS.stable_seconds)
    assert settled.looks == 3


def test_a_screen_that_changes_in_the_last_stretch_is_not_taken():
    film = Film((0, screen(1)), (0.35, screen(2)), frame_seconds=0.09)
    settled = film.settle()
    assert (settled.tag, settled.frame.image) == (None, screen(2))
    assert film.taken[-1] >= 0.35 + SETTINGS.stable_seconds


@given(
    changes=st.lists(st.floats(0, 4), max_size=9),
    blank=st.booleans(),
    frame_seconds=st.floats(0, 0.7),
    acted=st.booleans(),
)
def test_every_wait_ends_within_its_bounds(changes, blank, frame_seconds, acted):
    scenes = [(0.0, WHITE if blank else screen(0)), *((at, screen(n)) for n, at in enumerate(sorted(changes), 1))]
    film = Film(*scenes, frame_seconds=frame_seconds)
    settled = film.settle(before=screen(0) if acted else None)
    longest = max(SETTINGS.deadline_seconds, SETTINGS.blank_seconds, SETTINGS.change_seconds)
    assert film.now <= longest + SETTINGS.poll_seconds + SETTINGS.stable_seconds + 2 * frame_seconds
    assert settled.looks == len(film.taken)
    assert settled.frame.monotonic == film.taken[-1], "the frame is the last one"
    if settled.tag is None:
        same = [at for at in film.taken if not any(at < begins <= film.taken[-1] for begins, _ in scenes)]
        assert film.taken[-1] - same[0] >= SETTINGS.stable_seconds - 1e-9, "it was seen for as long as it has to be"


def test_regions_are_learned_from_frames_between_which_nobody_acted():
    frames = [picture_of(screen(1, clock=n)) for n in range(5)]
    learned = learn_regions(frames)
    assert learned
    assert all(region.bottom <= 0.125 for region in learned), "only the clock moved"
    assert changed_share(frames[0], frames[4]) > 0
    assert changed_share(frames[0], frames[4], learned) == 0


def test_nothing_is_learned_from_a_still_screen():
    assert learn_regions([picture_of(screen(1))] * 2) == ()


def test_learning_takes_two_frames():
    with pytest.raises(InputError, match="two or more"):
        learn_regions([picture_of(screen(1))])


def test_screens_of_other_sizes_differ():
    assert changed_share(picture_of(screen(1)), picture_of(screen(1, size=(50, 100)))) == 1.0


def test_a_screen_of_one_colour_that_is_not_white_or_black_is_not_empty():
    grey = picture_of(encoded(Image.new("L", (60, 100), 128)))
    assert not is_blank(grey, SETTINGS)


def test_a_change_of_colour_alone_is_a_change():
    red, green = (picture_of(encoded(Image.new("RGB", (60, 100), colour))) for colour in ((200, 0, 0), (0, 102, 0)))
    assert changed_share(red, green) == 1.0


def test_large_screens_are_reduced():
    assert max(picture_of(encoded(Image.new("RGB", (1080, 2280), "red"))).shape) <= 640


@pytest.mark.parametrize("sides", [(0.5, 0, 0.5, 1), (0, 0.9, 1, 0.1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)])
def test_a_region_must_lie_on_the_screen(sides):
    with pytest.raises(InputError, match="region"):
        Region(*sides)
