import random
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simphone_helpers import a_task, actions, any_action, calm_phone, element, on_screen, poke, random_phones

from emulator_workers.simphone.oracle import apply
from emulator_workers.simphone.phone import CALM, Hazards, SimPhone
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.world import APPS, HEIGHT, HOURS, ITEMS, TOGGLES, WIDTH, Release

BOTH = pytest.mark.parametrize("release", list(Release))
WILD = Hazards(0.3, 0.3, 0.3, 0.1)


def played(seed, sequence, hazards=WILD):
    """Frames of a phone that takes the actions."""
    phone, frames = SimPhone(a_task(seed), hazards=hazards), []
    for action in sequence:
        phone.advance()
        frames.append(render(phone).tobytes())
        apply(phone, action)
    return frames


def some_actions(seed, count=40):
    phone, rng, found = SimPhone(a_task(seed), hazards=WILD), random.Random(seed), []
    for _ in range(count):
        phone.advance()
        found.append(any_action(phone, rng))
        apply(phone, found[-1])
    return found


# ---- determinism


@given(seed=st.integers(0, 2**31 - 1), sequence=st.lists(actions, max_size=15))
@settings(max_examples=25)
def test_the_same_seed_and_actions_give_byte_identical_frames(seed, sequence):
    assert played(seed, sequence) == played(seed, sequence)


def test_a_replay_of_a_busy_episode_gives_the_same_frames():
    sequence = some_actions(5)
    frames = played(5, sequence)
    assert frames == played(5, sequence)
    assert len(set(frames)) > 20


def test_another_seed_gives_other_frames():
    sequence = some_actions(5)
    assert played(5, sequence) != played(6, sequence)


def test_the_seed_decides_shops_deals_and_switches():
    setups = [calm_phone(seed) for seed in range(30)]
    assert len({tuple(phone.shops) for phone in setups}) > 3
    assert len({phone.deals for phone in setups}) > 10
    assert len({tuple(phone.state.toggles.values()) for phone in setups}) > 5


@given(seed=st.integers(0, 1000), sequence=st.lists(actions, max_size=30))
@settings(max_examples=40)
def test_no_sequence_of_actions_breaks_the_phone(seed, sequence):
    phone = SimPhone(a_task(seed), hazards=WILD)
    for action in sequence:
        phone.advance()
        apply(phone, action)
        for found in phone.elements():
            assert 0 <= found.left < found.right <= WIDTH
            assert 0 <= found.top < found.bottom <= HEIGHT


# ---- clones


def test_a_clone_goes_its_own_way():
    for phone in random_phones(40):
        before, ahead = asdict(phone.state), phone.clone()
        rng = random.Random(1)
        for _ in range(6):
            ahead.advance()
            apply(ahead, any_action(ahead, rng))
        ahead.state.toggles["wifi"] = not ahead.state.toggles["wifi"]
        assert asdict(phone.state) == before


def test_a_clone_continues_as_the_phone_does():
    phone = SimPhone(a_task(3), hazards=WILD)
    other = phone.clone()
    for action in some_actions(3, 25):
        for each in (phone, other):
            each.advance()
            apply(each, action)
        assert asdict(phone.state) == asdict(other.state)


def test_a_clone_can_be_calmer():
    phone = SimPhone(a_task(0), hazards=WILD)
    assert phone.clone(CALM).hazards == CALM
    assert phone.clone().hazards == WILD


# ---- controls that differ between the releases


def test_plus_opens_a_new_alarm_in_the_textbook_only():
    for release, expected in ((Release.TEXTBOOK, "new_alarm"), (Release.UPDATED, "clock")):
        phone = on_screen("clock", release=release)
        poke(phone, "plus")
        assert phone.state.screen == expected


def test_the_list_of_alarms_opens_a_new_alarm_after_the_update_only():
    for release, expected in ((Release.TEXTBOOK, "clock"), (Release.UPDATED, "new_alarm")):
        phone = on_screen("clock", release=release)
        poke(phone, "alarms")
        assert phone.state.screen == expected


def written(release):
    phone = on_screen("notes", release=release)
    poke(phone, "note")
    assert phone.type_text("buy milk")
    return phone


def test_enter_saves_a_note_in_the_textbook_only():
    for release, expected in ((Release.TEXTBOOK, ("buy milk",)), (Release.UPDATED, ())):
        phone = written(release)
        phone.press_enter()
        assert phone.state.notes == expected
        assert phone.state.focused == (release is Release.UPDATED)


def test_back_saves_a_note_after_the_update_and_discards_it_before():
    for release, expected in ((Release.TEXTBOOK, ()), (Release.UPDATED, ("buy milk",))):
        phone = written(release)
        phone.press_back()
        assert phone.state.notes == expected
        assert (phone.state.typed, phone.state.screen) == ("", "notes")


def queried(release):
    phone = on_screen("shop", release=release)
    poke(phone, "field")
    assert phone.type_text("red mug")
    return phone


def test_enter_searches_in_the_textbook_and_hides_the_keys_after_the_update():
    phone = queried(Release.TEXTBOOK)
    phone.press_enter()
    assert (phone.state.screen, phone.state.query) == ("results", "red mug")
    phone = queried(Release.UPDATED)
    phone.press_enter()
    assert (phone.state.screen, phone.state.focused, phone.state.typed) == ("shop", False, "red mug")


def test_the_magnifier_clears_in_the_textbook_and_searches_after_the_update():
    phone = queried(Release.TEXTBOOK)
    poke(phone, "magnifier")
    assert (phone.state.screen, phone.state.typed) == ("shop", "")
    phone = queried(Release.UPDATED)
    poke(phone, "magnifier")
    assert (phone.state.screen, phone.state.query) == ("results", "red mug")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_advertisement_closes_by_its_cross_in_the_textbook_and_by_its_body_after_the_update(place):
    for release, closing, opening in (
        (Release.TEXTBOOK, "cross", "advert"),
        (Release.UPDATED, "advert", "cross"),
    ):
        phone = on_screen("mail", release=release)
        phone.state.ad = place
        opened = phone.clone()
        poke(phone, closing)
        assert (phone.state.ad, phone.state.ad_page) == (None, False)
        poke(opened, opening)
        assert (opened.state.ad, opened.state.ad_page) == (None, True)
        opened.press_back()
        assert (opened.state.ad_page, opened.state.screen) == (False, "mail")


# ---- controls that work alike in both


@BOTH
@pytest.mark.parametrize("app", APPS)
def test_icons_open_their_apps(release, app):
    phone = on_screen("home", release=release)
    poke(phone, "app", app)
    assert phone.state.screen == app


@BOTH
def test_shops_open_from_the_browser(release):
    phone = on_screen("browser", release=release)
    poke(phone, "shop", "wallmart")
    assert (phone.state.screen, phone.state.shop) == ("shop", "wallmart")


@BOTH
@pytest.mark.parametrize("name", TOGGLES)
def test_switches_switch_and_switch_back(release, name):
    phone = on_screen("settings", release=release)
    before = phone.state.toggles[name]
    poke(phone, "toggle", name)
    assert phone.state.toggles[name] is not before
    poke(phone, "toggle", name)
    assert phone.state.toggles[name] is before


@BOTH
@pytest.mark.parametrize("hour", HOURS)
def test_an_alarm_is_saved_once_an_hour_is_chosen(release, hour):
    phone = on_screen("new_alarm", release=release)
    poke(phone, "save")
    assert phone.state.alarms == ()
    poke(phone, "hour", hour)
    poke(phone, "save")
    assert (phone.state.alarms, phone.state.screen) == ((hour,), "clock")


@BOTH
def test_a_deal_opens_its_product_and_back_returns_to_the_shop(release):
    phone = on_screen("shop", release=release)
    poke(phone, "deal")
    assert (phone.state.screen, phone.state.product) == ("product", phone.deals[0])
    phone.press_back()
    assert phone.state.screen == "shop"


@BOTH
def test_a_product_goes_into_the_cart_of_its_shop(release):
    phone = next(p for p in (on_screen("product", s, release=release) for s in range(20)) if not p.long_page)
    poke(phone, "add")
    assert (phone.state.cart, phone.state.screen) == ((("ebuy", "red mug"),), "cart")


@BOTH
@pytest.mark.parametrize(
    ("screen", "parent"),
    [("browser", "home"), ("shop", "browser"), ("results", "shop"), ("cart", "product"), ("new_alarm", "clock")],
)
def test_back_goes_one_screen_up(release, screen, parent):
    phone = on_screen(screen, release=release)
    phone.press_back()
    assert phone.state.screen == parent


@BOTH
def test_home_leaves_every_state(release):
    for phone in random_phones(60):
        phone.release = release
        phone.press_home()
        state = phone.state
        assert (state.screen, state.ad, state.ad_page, state.not_responding) == ("home", None, False, False)
        assert not state.loading


# ---- scrolling


def test_a_swipe_up_shows_the_rest_of_the_results_and_a_swipe_down_the_first():
    phone = on_screen("results")
    first = phone.visible
    phone.swipe(0.5, 0.8, 0.5, 0.2)
    assert phone.visible == phone.state.results[3:6] != first
    phone.swipe(0.5, 0.2, 0.5, 0.8)
    assert phone.visible == first


def test_a_swipe_that_hardly_moves_scrolls_nothing():
    phone = on_screen("results")
    phone.swipe(0.1, 0.5, 0.9, 0.55)
    assert phone.state.page == 0


def test_long_pages_show_their_button_after_scrolling_only():
    phone = next(p for p in (on_screen("product", seed) for seed in range(20)) if p.long_page)
    assert phone.elements() == []
    phone.swipe(0.5, 0.8, 0.5, 0.2)
    assert element(phone, "add")
    phone.swipe(0.5, 0.2, 0.5, 0.8)
    assert phone.elements() == []


@given(item=st.sampled_from(ITEMS), seed=st.integers(0, 500))
def test_search_results_hold_the_match(item, seed):
    phone = on_screen("shop", seed)
    phone.state.focused = True
    phone.type_text(item)
    poke(phone, "magnifier")
    assert item in phone.state.results
    assert len(phone.state.results) == 6
    assert set(phone.state.results) <= set(ITEMS)


def test_the_match_is_sometimes_off_the_first_page_and_never_always_in_one_row():
    places = set()
    for seed in range(60):
        phone = on_screen("results", seed)
        places.add(phone.state.results.index("red mug"))
    assert places >= {0, 1, 2}
    assert places & {3, 4, 5}


# ---- what real phones do


def test_typing_without_focus_changes_nothing_and_says_so():
    phone = on_screen("shop")
    before = asdict(phone.state)
    assert not phone.type_text("red mug")
    assert asdict(phone.state) == before


def test_a_touch_that_lags_is_not_noticed():
    phone = calm_phone(hazards=Hazards(0, 1, 0, 0))
    poke(phone, "app", "mail")
    assert phone.state.screen == "home"


def test_advertisements_pop_up_and_cover_what_is_below():
    phone = calm_phone(hazards=Hazards(1, 0, 0, 0))
    phone.advance()
    assert phone.state.ad is not None
    assert {e.tag for e in phone.elements()} == {"cross", "advert"}
    phone.press_back()
    assert phone.state.ad is not None
    assert not phone.type_text("x")


def test_a_slow_page_swallows_the_first_touch():
    phone = on_screen("browser")
    phone.hazards = Hazards(0, 0, 1, 0)
    poke(phone, "shop", "ebuy")
    assert phone.state.loading
    assert phone.elements() == []
    phone.hazards = CALM
    phone.tap(0.5, 0.25)
    assert not phone.state.loading
    assert not phone.state.focused
    phone.tap(0.5, 0.25)
    assert phone.state.focused


def test_an_app_that_does_not_respond_waits_or_closes():
    phone = on_screen("clock")
    phone.hazards = Hazards(0, 0, 0, 1)
    phone.advance()
    assert phone.state.not_responding
    closed = phone.clone()
    poke(phone, "wait")
    assert (phone.state.not_responding, phone.state.screen) == (False, "clock")
    poke(closed, "close")
    assert (closed.state.not_responding, closed.state.screen) == (False, "home")


def test_the_home_screen_always_responds():
    phone = calm_phone(hazards=Hazards(0, 0, 0, 1))
    for _ in range(10):
        phone.advance()
    assert not phone.state.not_responding


def test_pixels_change_without_progress():
    for screen in ("home", "shop", "settings"):
        phone = on_screen(screen)
        frames = set()
        for _ in range(10):
            phone.advance()
            frames.add(render(phone).tobytes())
        assert len(frames) > 1
        assert phone.state.screen == screen
