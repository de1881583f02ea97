"""The state machine behind the simulated phone's screen: what is shown, what can be touched, and what touching does.

``SimPhone`` knows nothing of pixels (``screens``), of the ``Device`` protocol (``device``) or of the best action
(``oracle``). Time passes only in ``advance``, which whoever looks at the screen calls once a frame. Everything is a
function of the seed and of the calls made, so an episode can be replayed from its actions.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

from digiq_ray.core.tasks import Task
from emulator_workers.simphone.style import DEFAULT, Style
from emulator_workers.simphone.world import (
    AD_CROSSES,
    CELL,
    COLOURS,
    HEIGHT,
    HOURS,
    ITEMS,
    OBJECTS,
    SHOPS,
    TOGGLES,
    WIDTH,
    Release,
)


@dataclass(frozen=True, slots=True)
class Hazards:
    """Probabilities of what real phones do to an agent: each per frame or per touch."""

    ad: float = 0.06
    lag: float = 0.06
    slow: float = 0.06
    not_responding: float = 0.01


CALM = Hazards(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Element:
    """Something that can be touched: a rectangle in units of the 96 x 192 screen, what it is, and which one."""

    left: float
    top: float
    right: float
    bottom: float
    tag: str
    name: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """Normalised coordinates of the middle."""
        return (self.left + self.right) / 2 / WIDTH, (self.top + self.bottom) / 2 / HEIGHT

    def holds(self, x: float, y: float) -> bool:
        """Whether the normalised point lies inside."""
        return self.left <= x * WIDTH < self.right and self.top <= y * HEIGHT < self.bottom


@dataclass(slots=True)
class State:
    """All that a screen can show. Plain data, so that copying a phone is cheap and exact."""

    screen: str = "home"
    ad: int | None = None
    ad_page: bool = False
    not_responding: bool = False
    loading: bool = False
    loading_seen: bool = False
    focused: bool = False
    typed: str = ""
    shop: str = ""
    query: str = ""
    results: tuple[str, ...] = ()
    page: int = 0
    product: str = ""
    came_from: str = ""
    scrolled: bool = False
    hour: str = ""
    toggles: dict[str, bool] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cart: tuple[tuple[str, str], ...] = ()
    frame: int = 0
    animation: int = 0


class SimPhone:
    """One simulated phone with one task.

    Args:
        task: Its ``goal`` and ``seed`` decide how the phone is set up.
        release: Which software runs.
        style: The look; by default one of the two default styles, drawn by the seed.
        hazards: How unruly the phone is.
    """

    def __init__(
        self,
        task: Task,
        *,
        release: Release = Release.UPDATED,
        style: Style | None = None,
        hazards: Hazards | None = None,
    ) -> None:
        self.task = task
        self.release = release
        self.random = random.Random(task.seed)
        drawn = self.random.choice(DEFAULT)
        self.style = style or drawn
        self.hazards = hazards or Hazards()
        self.shops = self.random.sample(SHOPS, len(SHOPS))
        self.deals = tuple(self.random.choice(ITEMS) for _ in range(2))
        self.long_page = self.random.random() < 0.5
        self.state = State(toggles={name: self.random.random() < 0.5 for name in TOGGLES})
        if task.goal.get("kind") == "toggle":
            self.state.toggles[task.goal["toggle"]] = task.goal["value"] != "on"

    def clone(self, hazards: Hazards | None = None) -> SimPhone:
        """An independent copy in the same state, for looking ahead; ``hazards`` replaces its own if given."""
        other = copy.copy(self)
        other.random = random.Random()
        other.random.setstate(self.random.getstate())
        other.state = copy.copy(self.state)
        other.state.toggles = dict(self.state.toggles)
        other.hazards = hazards or self.hazards
        return other

    # ---- what can be touched

    def elements(self) -> list[Element]:
        """Everything that can be touched now; the first that holds a point gets the touch."""
        state, style = self.state, self.style
        if state.loading:
            return []
        if state.not_responding:
            return [
                Element(*_box(style, 0, 48, 4 * CELL, 5 * CELL), "wait"),
                Element(*_box(style, 48, 96, 4 * CELL, 5 * CELL), "close"),
            ]
        if state.ad is not None:
            column, row = AD_CROSSES[state.ad]
            cross = Element(*_box(style, column * CELL, (column + 1) * CELL, row * CELL, (row + 1) * CELL), "cross")
            return [cross, Element(0, CELL, WIDTH, 4 * CELL + 16, "advert")]
        if state.ad_page:
            return []
        build = getattr(self, f"_elements_{state.screen}", None)
        return build() if build else []

    def _elements_home(self) -> list[Element]:
        return [Element(*_grid_cell(self.style, i), "app", app) for i, app in enumerate(self.style.apps())]

    def _elements_browser(self) -> list[Element]:
        return [Element(*_row(self.style, i), "shop", shop) for i, shop in enumerate(self.shops)]

    def _elements_shop(self) -> list[Element]:
        found = self._search_field()
        if not self.state.focused:
            found += [
                Element(0, (3 + i) * CELL, WIDTH, (4 + i) * CELL, "deal", item) for i, item in enumerate(self.deals)
            ]
        return found

    def _elements_results(self) -> list[Element]:
        return self._search_field() + [
            Element(0, (2 + i) * CELL, WIDTH, (3 + i) * CELL, "result", item) for i, item in enumerate(self.visible)
        ]

    def _elements_product(self) -> list[Element]:
        if self.long_page and not self.state.scrolled:
            return []
        top = (3 if self.long_page else 5) * CELL
        return [Element(16, top, 80, top + CELL, "add")]

    def _elements_settings(self) -> list[Element]:
        return [Element(*_row(self.style, i), "toggle", name) for i, name in enumerate(TOGGLES)]

    def _elements_clock(self) -> list[Element]:
        return [
            Element(*_box(self.style, 2 * CELL, WIDTH, 5 * CELL, 6 * CELL), "plus"),
            Element(0, CELL, WIDTH, 3 * CELL, "alarms"),
        ]

    def _elements_new_alarm(self) -> list[Element]:
        hours = [Element(*_grid_cell(self.style, i), "hour", hour) for i, hour in enumerate(HOURS)]
        return [*hours, Element(*_box(self.style, CELL, WIDTH, 5 * CELL, 6 * CELL), "save")]

    def _elements_notes(self) -> list[Element]:
        return [Element(0, CELL, WIDTH, 2 * CELL, "note")]

    def _search_field(self) -> list[Element]:
        return [
            Element(*_box(self.style, 72, WIDTH, CELL, 2 * CELL), "magnifier"),
            Element(0, CELL, WIDTH, 2 * CELL, "field"),
        ]

    @property
    def visible(self) -> tuple[str, ...]:
        """The results on the page of the list that is shown."""
        return self.state.results[3 * self.state.page : 3 * self.state.page + 3]

    # ---- what happens

    def advance(self) -> None:
        """Lets one frame of time pass: animations move, pages load, advertisements pop up."""
        state = self.state
        state.frame += 1
        if state.loading and state.loading_seen:
            state.loading = False
        state.loading_seen = state.loading
        state.animation = self.random.randrange(8)
        free = state.ad is None and not state.ad_page and not state.not_responding
        if self.random.random() < self.hazards.ad and free:
            state.ad = self.random.randrange(len(AD_CROSSES))
        elif self.random.random() < self.hazards.not_responding and free and state.screen != "home":
            state.not_responding = True

    def tap(self, x: float, y: float) -> None:
        """A touch at normalised coordinates; sometimes the phone does not notice it."""
        if self._busy() or self._lags():
            return
        for element in self.elements():
            if element.holds(x, y):
                getattr(self, f"_tap_{element.tag}")(element.name)
                return

    def swipe(self, x: float, y: float, x2: float, y2: float) -> None:
        """A swipe; vertical ones scroll long pages and lists."""
        del x, x2
        if self._busy() or self._lags() or self._covered() or abs(y2 - y) < 0.1:
            return
        down = y2 < y
        if self.state.screen == "product" and self.long_page:
            self.state.scrolled = down
        elif self.state.screen == "results":
            self.state.page = int(down)

    def type_text(self, text: str) -> bool:
        """Types into the focused field. Returns whether anything had the focus."""
        if self._busy():
            return True
        if not self.state.focused or self._covered():
            return False
        self.state.typed = text
        return True

    def press_home(self) -> None:
        """Back to the home screen, whatever is shown."""
        self.state.ad, self.state.ad_page, self.state.not_responding, self.state.loading = None, False, False, False
        self._show("home")

    def press_enter(self) -> None:
        """The enter key of the keyboard."""
        state = self.state
        if self._busy() or self._lags() or self._covered() or not (state.focused and state.typed):
            return
        if self.release is Release.UPDATED:
            if state.screen == "shop":
                state.focused = False
        elif state.screen == "shop":
            self._search()
        elif state.screen == "notes":
            self._save_note()

    def press_back(self) -> None:
        """The back key."""
        state = self.state
        if self._busy() or self._lags():
            return
        if state.ad_page:
            state.ad_page = False
        elif self._covered():
            return
        elif state.focused:
            if self.release is Release.UPDATED and state.screen == "notes" and state.typed:
                self._save_note()
            state.focused, state.typed = False, ""
        else:
            parent = {
                "shop": "browser",
                "results": "shop",
                "product": state.came_from,
                "cart": "product",
                "new_alarm": "clock",
            }
            self._show(parent.get(state.screen, "home"))

    def succeeded(self) -> bool:
        """Whether the goal is reached now: exact, for the oracle judge."""
        goal, state = self.task.goal, self.state
        kind = goal.get("kind")
        if kind == "open":
            return state.screen == goal["app"] and not state.ad_page
        if kind == "toggle":
            return state.toggles[goal["toggle"]] == (goal["value"] == "on")
        if kind == "alarm":
            return goal["hour"] in state.alarms
        if kind == "note":
            return goal["note"] in state.notes
        if kind == "go":
            return state.screen == "shop" and state.shop == goal["shop"] and not state.ad_page
        if kind == "search":
            return state.screen == "results" and (state.shop, state.query) == (goal["shop"], goal["item"])
        if kind == "buy":
            return (goal["shop"], goal["item"]) in state.cart
        return False

    # ---- inside

    def _busy(self) -> bool:
        if self.state.loading:
            self.state.loading = False
            return True
        return False

    def _lags(self) -> bool:
        return self.random.random() < self.hazards.lag

    def _covered(self) -> bool:
        return self.state.ad is not None or self.state.ad_page or self.state.not_responding

    def _show(self, screen: str) -> None:
        state = self.state
        if screen != "product" or state.screen != "cart":
            state.scrolled = False
        state.screen, state.focused, state.typed = screen, False, ""
        if screen in ("shop", "results", "product") and self.random.random() < self.hazards.slow:
            state.loading = True

    def _search(self) -> None:
        state = self.state
        state.query, state.page = state.typed, 0
        colour, _, thing = state.query.partition(" ")
        others = self.random.sample([c for c in COLOURS if c != colour], 4)
        items = [f"{c} {thing if thing in OBJECTS else self.random.choice(OBJECTS)}" for c in others]
        first, second = items[:2], [items[2], f"{items[3].split()[0]} {self.random.choice(OBJECTS)}"]
        match = state.query if state.query in ITEMS else self.random.choice(ITEMS)
        pages = [[match, *first], [*second, self.random.choice(ITEMS)]]
        if self.random.random() < 0.25:
            pages = [[*first, second[0]], [match, second[1], self.random.choice(ITEMS)]]
        for page in pages:
            self.random.shuffle(page)
        state.results = tuple(pages[0] + pages[1])
        self._show("results")

    def _save_note(self) -> None:
        self.state.notes += (self.state.typed,)
        self.state.focused, self.state.typed = False, ""

    def _close_ad(self, _: str) -> None:
        self.state.ad = None

    def _open_ad(self, _: str) -> None:
        self.state.ad, self.state.ad_page = None, True

    def _tap_cross(self, name: str) -> None:
        (self._close_ad if self.release is Release.TEXTBOOK else self._open_ad)(name)

    def _tap_advert(self, name: str) -> None:
        (self._open_ad if self.release is Release.TEXTBOOK else self._close_ad)(name)

    def _tap_wait(self, _: str) -> None:
        self.state.not_responding = False

    def _tap_close(self, _: str) -> None:
        self.press_home()

    def _tap_app(self, name: str) -> None:
        self._show(name)

    def _tap_shop(self, name: str) -> None:
        self.state.shop = name
        self._show("shop")

    def _tap_field(self, _: str) -> None:
        if self.state.screen != "shop":
            self._show("shop")
        self.state.focused = True

    def _tap_magnifier(self, name: str) -> None:
        if self.state.screen == "shop" and self.state.typed:
            if self.release is Release.UPDATED:
                self._search()
            else:
                self.state.typed = ""
        else:
            self._tap_field(name)

    def _tap_deal(self, name: str) -> None:
        self._open_product(name, "shop")

    def _tap_result(self, name: str) -> None:
        self._open_product(name, "results")

    def _open_product(self, name: str, came_from: str) -> None:
        self.state.product, self.state.came_from = name, came_from
        self._show("product")

    def _tap_add(self, _: str) -> None:
        self.state.cart += ((self.state.shop, self.state.product),)
        self._show("cart")

    def _tap_toggle(self, name: str) -> None:
        self.state.toggles[name] = not self.state.toggles[name]

    def _tap_plus(self, _: str) -> None:
        if self.release is Release.TEXTBOOK:
            self._new_alarm()

    def _tap_alarms(self, _: str) -> None:
        if self.release is Release.UPDATED:
            self._new_alarm()

    def _new_alarm(self) -> None:
        self.state.hour = ""
        self._show("new_alarm")

    def _tap_hour(self, name: str) -> None:
        self.state.hour = name

    def _tap_save(self, _: str) -> None:
        if self.state.hour:
            self.state.alarms += (self.state.hour,)
            self._show("clock")

    def _tap_note(self, _: str) -> None:
        self.state.focused = True


def _box(style: Style, left: float, right: float, top: float, bottom: float) -> tuple[float, float, float, float]:
    left, right = style.x(left, right)
    return left, top, right, bottom


def _row(style: Style, index: int) -> tuple[float, float, float, float]:
    top = (style.first_row + index) * CELL
    return 0, top, WIDTH, top + CELL


def _grid_cell(style: Style, index: int) -> tuple[float, float, float, float]:
    column, row = index % 3, style.first_row + index // 3
    return _box(style, column * CELL, (column + 1) * CELL, row * CELL, (row + 1) * CELL)
