import itertools

import numpy as np
import pytest
from PIL import Image
from simphone_helpers import SCREENS, element, on_screen, random_phones

from digiq_ray.core.errors import InputError
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.screens import APP_COLOURS, ITEM_COLOURS, SHOP_COLOURS, render
from emulator_workers.simphone.style import DEFAULT, HELD_OUT, LANGUAGES, LAYOUTS, SKINS, Style
from emulator_workers.simphone.world import APPS, HEIGHT, SHOPS, WIDTH

STYLES = [Style(*names) for names in itertools.product(SKINS, LAYOUTS, LANGUAGES)]
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def states(style):
    """A phone in every state that looks different."""
    for screen in (*SCREENS, *APPS):
        yield on_screen(screen, 1, style=style)
    for change in ({"ad": 0}, {"ad": 1}, {"ad": 2}, {"ad_page": True}, {"not_responding": True}, {"loading": True}):
        phone = on_screen("shop", 1, style=style)
        for name, value in change.items():
            setattr(phone.state, name, value)
        yield phone
    for screen, typed in (("shop", ""), ("shop", "red mug"), ("notes", "buy milk")):
        phone = on_screen(screen, 1, style=style)
        phone.state.focused, phone.state.typed, phone.state.notes = True, typed, ("get milk",)
        yield phone
    for seed in range(4):
        phone = on_screen("product", seed, style=style)
        phone.state.scrolled = True
        yield phone
    phone = on_screen("clock", 1, style=style)
    phone.state.alarms = ("7", "9")
    yield phone


def array(phone, scale=1):
    return np.asarray(render(phone, scale), dtype=np.int16)


def drawn(phone, colour, scale=2):
    """Normalised middles of the pixels of exactly this colour, as ``[n, 2]`` of x and y."""
    found = np.argwhere((array(phone, scale) == colour).all(-1))
    return (found[:, ::-1] + 0.5) / (WIDTH * scale, HEIGHT * scale)


def all_inside(points, area):
    assert len(points) > 4
    return all(area.holds(x, y) for x, y in points)


# ---- scale


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_a_picture_has_the_size_that_its_scale_says(scale):
    assert render(on_screen("home"), scale).size == (WIDTH * scale, HEIGHT * scale)


def test_a_large_picture_shows_the_same_as_the_small_one():
    for phone in states(Style()):
        small = array(phone)
        shrunk = np.asarray(render(phone, 4).resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.int16)
        assert np.abs(small - shrunk).mean() < 8


def test_a_large_picture_is_closest_to_its_own_small_one():
    phones = [on_screen(screen, 1) for screen in SCREENS]
    small = [array(phone) for phone in phones]
    for index, phone in enumerate(phones):
        shrunk = np.asarray(render(phone, 4).resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.int16)
        assert index == int(np.argmin([np.abs(one - shrunk).mean() for one in small]))


def test_a_large_picture_is_sharper_than_an_enlarged_small_one():
    for screen in ("home", "results", "settings"):
        phone = on_screen(screen)
        large = array(phone, 4)
        enlarged = array(phone).repeat(4, 0).repeat(4, 1)
        blocks = large.reshape(HEIGHT, 4, WIDTH, 4, 3)
        assert (np.ptp(blocks, axis=(1, 3)) > 0).mean() > 0.01
        assert (large != enlarged).any(-1).mean() > 0.02


# ---- styles


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.skin}-{style.layout}-{style.language}")
def test_every_screen_is_drawn_in_every_style(style):
    for phone in states(style):
        picture = array(phone)
        assert picture.shape == (HEIGHT, WIDTH, 3)
        assert len(np.unique(picture[12:].reshape(-1, 3), axis=0)) > 1


def test_all_states_look_different():
    pictures = {array(phone)[12:].tobytes() for phone in states(Style())}
    twice = len(SCREENS) + len(APPS) - len({*SCREENS, *APPS})
    unscrolled = sum(not on_screen("product", seed).long_page for seed in range(4)) - 1
    assert len(pictures) >= len(list(states(Style()))) - twice - unscrolled - 2


def test_the_held_out_style_shares_nothing_with_the_default_ones():
    for style in DEFAULT:
        assert style.skin != HELD_OUT.skin
        assert style.layout != HELD_OUT.layout
        assert style.language != HELD_OUT.language


@pytest.mark.parametrize("screen", [s for s in SCREENS if s != "cart"])
def test_the_held_out_style_looks_unlike_the_default_ones(screen):
    own = array(on_screen(screen, 1, style=HELD_OUT))[12:]
    for style in DEFAULT:
        assert np.abs(own - array(on_screen(screen, 1, style=style))[12:]).mean() > 10


def test_skins_layouts_and_languages_each_change_the_picture():
    plain = array(on_screen("settings", style=Style()))
    for changed in (Style(skin="mint"), Style(layout="low"), Style(layout="mirrored"), Style(language="es")):
        assert (array(on_screen("settings", style=changed)) != plain).any()


def test_phones_draw_one_of_the_default_styles_unless_told():
    assert {phone.style for phone in random_phones(40)} == set(DEFAULT)
    phone = on_screen("home", style=HELD_OUT)
    assert phone.style == HELD_OUT


def test_a_style_does_not_change_what_the_phone_is():
    for seed in range(5):
        task = on_screen("home", seed).task
        plain, other = SimPhone(task), SimPhone(task, style=HELD_OUT)
        assert (plain.shops, plain.deals, plain.state) == (other.shops, other.deals, other.state)


@pytest.mark.parametrize("wrong", [{"skin": "neon"}, {"layout": "round"}, {"language": "tlh"}, {"day": -1}])
def test_an_unknown_style_is_an_input_error(wrong):
    with pytest.raises(InputError, match=r"there are|day 0"):
        Style(**wrong)


# ---- drift


def test_each_day_moves_icons_and_keeps_them_all():
    orders = [Style(day=day).apps() for day in range(8)]
    assert orders[0] == APPS
    for before, after in itertools.pairwise(orders):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
        assert sorted(after) == sorted(APPS)


def test_an_icon_that_moved_opens_from_where_it_is_drawn():
    style = Style(day=5)
    phone = on_screen("home", style=style)
    moved = next(app for app, was in zip(style.apps(), APPS, strict=True) if app != was)
    assert all_inside(drawn(phone, APP_COLOURS[moved]), element(phone, "app", moved))


# ---- what is drawn can be touched where it is drawn


def styled(screen, layout, **state):
    phone = on_screen(screen, 1, style=Style(layout=layout))
    for name, value in state.items():
        setattr(phone.state, name, value)
    return phone


@EACH_LAYOUT
def test_icons_are_where_they_are_drawn(layout):
    phone = styled("home", layout)
    for app in APPS:
        assert all_inside(drawn(phone, APP_COLOURS[app]), element(phone, "app", app))


@EACH_LAYOUT
def test_shops_are_where_they_are_drawn(layout):
    phone = styled("browser", layout)
    for shop in SHOPS:
        assert all_inside(drawn(phone, SHOP_COLOURS[shop]), element(phone, "shop", shop))


@EACH_LAYOUT
def test_the_magnifier_is_where_it_is_drawn(layout):
    phone = styled("shop", layout, focused=True, typed="red mug")
    assert all_inside(drawn(phone, (30, 120, 255)), element(phone, "magnifier"))


@EACH_LAYOUT
def test_results_are_where_they_are_drawn(layout):
    phone = styled("results", layout)
    for item in phone.visible:
        colour = ITEM_COLOURS[item.split()[0]]
        if sum(colour == ITEM_COLOURS[other.split()[0]] for other in phone.visible) == 1:
            assert all_inside(drawn(phone, colour), element(phone, "result", item))


@EACH_LAYOUT
def test_the_cart_button_is_where_it_is_drawn(layout):
    for seed in range(6):
        phone = on_screen("product", seed, style=Style(layout=layout))
        phone.state.scrolled = phone.long_page
        assert all_inside(drawn(phone, (255, 200, 0)), element(phone, "add"))


@EACH_LAYOUT
def test_switches_are_where_they_are_drawn(layout):
    phone = styled("settings", layout)
    for name in phone.state.toggles:
        phone.state.toggles = {other: other == name for other in phone.state.toggles}
        assert all_inside(drawn(phone, (40, 200, 60)), element(phone, "toggle", name))


@EACH_LAYOUT
def test_plus_is_where_it_is_drawn(layout):
    phone = styled("clock", layout)
    assert all_inside(drawn(phone, (220, 60, 50)), element(phone, "plus"))


@EACH_LAYOUT
def test_hours_and_save_are_where_they_are_drawn(layout):
    phone = styled("new_alarm", layout, hour="8")
    assert all_inside(drawn(phone, (60, 160, 250)), element(phone, "hour", "8"))
    assert all_inside(drawn(phone, (40, 180, 60)), element(phone, "save"))


@EACH_LAYOUT
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_cross_of_an_advertisement_is_where_it_is_drawn(layout, place):
    phone = styled("mail", layout, ad=place)
    assert all_inside(drawn(phone, (30, 30, 30)), element(phone, "cross"))


@EACH_LAYOUT
def test_wait_and_close_are_where_they_are_drawn(layout):
    phone = styled("mail", layout, not_responding=True)
    assert all_inside(drawn(phone, (60, 160, 250)), element(phone, "wait"))
    assert all_inside(drawn(phone, (200, 70, 60)), element(phone, "close"))


@EACH_LAYOUT
def test_the_field_and_the_note_are_where_they_are_drawn(layout):
    for screen, tag in (("shop", "field"), ("notes", "note")):
        phone = styled(screen, layout, focused=True)
        assert all_inside(drawn(phone, (255, 0, 0)), element(phone, tag))


@EACH_LAYOUT
def test_the_middle_of_an_element_reaches_it(layout):
    for phone in states(Style(layout=layout)):
        for found in phone.elements():
            first = next(e for e in phone.elements() if e.holds(*found.centre))
            assert first == found
