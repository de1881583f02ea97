"""What each screen of the simulated phone looks like: one function a screen, from its state to shapes on a canvas."""

from __future__ import annotations

import math

from PIL import Image

from emulator_workers.simphone.canvas import Canvas
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.style import RGB
from emulator_workers.simphone.world import AD_CROSSES, CELL, HEIGHT, WIDTH

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
APP_COLOURS: dict[str, RGB] = {
    "browser": (40, 90, 220), "settings": (110, 110, 110), "clock": (20, 20, 40), "mail": (220, 60, 50),
    "music": (240, 120, 20), "camera": (60, 180, 180), "maps": (50, 160, 70), "notes": (200, 170, 30),
    "weather": (130, 190, 250),
}  # fmt: skip
APP_LETTERS = {"music": "u", "camera": "c", "clock": "O", "maps": "m"}
SHOP_COLOURS: dict[str, RGB] = {"amazo": (250, 150, 30), "ebuy": (60, 60, 200), "wallmart": (40, 150, 80)}
ITEM_COLOURS: dict[str, RGB] = {
    "red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 80, 240), "yellow": (240, 220, 30),
    "purple": (150, 40, 180),
}  # fmt: skip
BANNER: tuple[RGB, ...] = ((255, 80, 80), (80, 255, 80), (80, 80, 255), (255, 255, 80))


def render(phone: SimPhone, scale: int = 1) -> Image.Image:
    """The screen as an RGB picture of ``96 * scale`` by ``192 * scale`` pixels."""
    state = phone.state
    canvas = Canvas(scale, phone.style.colours.paper)
    if state.loading:
        _loading(canvas, phone)
    elif state.ad_page:
        canvas.rect((0, 12, WIDTH, HEIGHT), (255, 0, 160))
        canvas.text(8, 80, phone.style.label("INSTALL"), 18, WHITE)
    else:
        _SCREENS.get(state.screen, _plain)(canvas, phone)
    if state.ad is not None:
        _advert(canvas, phone)
    if state.not_responding:
        _not_responding(canvas, phone)
    _status_bar(canvas, phone)
    return canvas.image


def _status_bar(canvas: Canvas, phone: SimPhone) -> None:
    state = phone.state
    canvas.rect((0, 0, WIDTH, 12), BLACK)
    canvas.text(2, 0.5, f"{9 + state.frame // 6:d}:{(state.frame * 7 + state.animation) % 60:02d}", 8, WHITE)
    angle = state.animation / 8 * 2 * math.pi
    x, y = 83 + 4 * math.cos(angle), 6 + 4 * math.sin(angle)
    canvas.ellipse((78, 1, 89, 12), None, WHITE)
    canvas.ellipse((x - 2, y - 2, x + 2, y + 2), (255, 255, 0))


def _header(canvas: Canvas, phone: SimPhone, colour: RGB, title: str) -> None:
    canvas.rect((0, 12, WIDTH, CELL), colour)
    canvas.text(4, 14, phone.style.label(title), 11, WHITE)


def _home(canvas: Canvas, phone: SimPhone) -> None:
    colours = phone.style.colours
    canvas.rect((0, 12, WIDTH, HEIGHT), colours.wallpaper)
    for element in phone._elements_home():
        left, top, app = element.left, element.top, element.name
        canvas.rect((left + 4, top + 4, left + 28, top + 28), APP_COLOURS[app])
        canvas.text(left + 10, top + 4, APP_LETTERS.get(app, app[0].upper()), 18, WHITE)
    canvas.rect((10, 172, 86, 188), colours.field)


def _browser(canvas: Canvas, phone: SimPhone) -> None:
    _header(canvas, phone, APP_COLOURS["browser"], "browser")
    for element in phone._elements_browser():
        canvas.rect((4, element.top + 2, 92, element.bottom - 2), SHOP_COLOURS[element.name])
        canvas.text(12, element.top + 8, element.name, 12, WHITE)


def _field(canvas: Canvas, phone: SimPhone, text: str, hint: str, focused: bool) -> None:
    colours = phone.style.colours
    outline = (255, 0, 0) if focused else colours.ink
    canvas.rect((3, CELL + 4, 93, 2 * CELL - 4), colours.field, outline, 3 if focused else 1)
    left = 26 if phone.style.layout == "mirrored" else 8
    canvas.text(left, CELL + 9, text or ("" if focused else hint), 11, colours.ink if text else (150, 150, 150))


def _magnifier(canvas: Canvas, phone: SimPhone, lit: bool) -> None:
    left, _ = phone.style.x(74, 90)
    colour = (30, 120, 255) if lit else (150, 150, 150)
    canvas.rect((left, CELL + 7, left + 16, 2 * CELL - 7), (225, 235, 250) if lit else phone.style.colours.field)
    canvas.ellipse((left + 2, CELL + 9, left + 11, CELL + 18), None, colour, 2)
    canvas.polygon(
        [(left + 9, CELL + 17), (left + 14, CELL + 23), (left + 12, CELL + 24), (left + 7, CELL + 18)], colour
    )


def _keyboard(canvas: Canvas) -> None:
    canvas.rect((0, 4 * CELL, WIDTH, HEIGHT), (90, 90, 100))
    for row in range(3):
        for column in range(7):
            left, top = 3 + 13 * column, 4 * CELL + 4 + 19 * row
            canvas.rect((left, top, left + 11, top + 15), (220, 220, 220))


def _shop(canvas: Canvas, phone: SimPhone) -> None:
    state = phone.state
    _header(canvas, phone, SHOP_COLOURS[state.shop], state.shop)
    _field(canvas, phone, state.typed, phone.style.label("search"), state.focused)
    _magnifier(canvas, phone, bool(state.typed))
    if state.focused:
        _keyboard(canvas)
        return
    canvas.rect((30, 2 * CELL + 8, 67, 2 * CELL + 23), BANNER[state.animation % 4])
    for i, item in enumerate(phone.deals):
        top = (3 + i) * CELL
        canvas.rect((2, top + 1, 94, top + CELL - 1), None, (255, 100, 0))
        _item(canvas, item, 4, top + 3, 32, top + 29)
        canvas.text(40, top + 8, phone.style.label("DEAL!"), 12, (255, 60, 0))


def _results(canvas: Canvas, phone: SimPhone) -> None:
    colours, state = phone.style.colours, phone.state
    _header(canvas, phone, SHOP_COLOURS[state.shop], state.shop)
    _field(canvas, phone, state.query, "", False)
    _magnifier(canvas, phone, False)
    for i, item in enumerate(phone.visible):
        top = (2 + i) * CELL
        canvas.rect((0, top, WIDTH, top + 1), colours.line)
        _item(canvas, item, 2, top + 2, 34, top + 30)
        canvas.text(38, top + 9, item, 9, colours.ink)
    last = len(state.results) > 3 and state.page == 1
    canvas.rect((92, (2 if not last else 3.5) * CELL, 95, (3.5 if not last else 5) * CELL), (140, 140, 140))


def _product(canvas: Canvas, phone: SimPhone) -> None:
    colours, state = phone.style.colours, phone.state
    _header(canvas, phone, SHOP_COLOURS[state.shop], state.shop)
    top = 5 * CELL
    if phone.long_page and state.scrolled:
        top = 3 * CELL
        for line in range(4):
            canvas.rect((8, 40 + 12 * line, 88, 42 + 12 * line), colours.line)
    else:
        _item(canvas, state.product, 16, CELL + 6, 80, CELL + 70)
        canvas.text(18, 112, state.product, 11, colours.ink)
        for line in range(3 if phone.long_page else 0):
            canvas.rect((8, 140 + 14 * line, 88, 142 + 14 * line), colours.line)
    if not phone.long_page or state.scrolled:
        canvas.rect((16, top + 4, 80, top + 28), (255, 200, 0))
        canvas.text(22, top + 9, phone.style.label("add cart"), 11, BLACK)


def _item(canvas: Canvas, item: str, left: float, top: float, right: float, bottom: float) -> None:
    colour, _, thing = item.partition(" ")
    fill, middle = ITEM_COLOURS.get(colour, (128, 128, 128)), (left + right) / 2
    if thing == "mug":
        canvas.rect((left + 2, top + 3, right - 8, bottom - 2), fill, BLACK)
        canvas.arc((right - 13, top + 6, right - 1, bottom - 6), -90, 90, fill, 3)
    elif thing == "ball":
        canvas.ellipse((left + 2, top + 2, right - 2, bottom - 2), fill, BLACK)
    elif thing == "hat":
        canvas.polygon([(middle, top + 1), (right - 1, bottom - 2), (left + 1, bottom - 2)], fill, BLACK)
    else:
        canvas.rect((left + 4, top + 1, right - 4, bottom - 1), fill, BLACK)
        canvas.rect((middle - 2, top + 2, middle + 2, bottom - 2), WHITE)


def _cart(canvas: Canvas, phone: SimPhone) -> None:
    _header(canvas, phone, BLACK, "cart")
    canvas.text(10, 90, phone.style.label("added"), 18, phone.style.colours.ink)


def _settings(canvas: Canvas, phone: SimPhone) -> None:
    _header(canvas, phone, APP_COLOURS["settings"], "settings")
    for element in phone._elements_settings():
        on, top = phone.state.toggles[element.name], element.top
        left, right = phone.style.x(66, 91)
        text_x, _ = phone.style.x(4, 64)
        knob, _ = phone.style.x(80 if on else 67, 90 if on else 77)
        canvas.text(text_x, top + 9, phone.style.label(element.name), 11, phone.style.colours.ink)
        canvas.rect((left, top + 8, right, top + 23), (40, 200, 60) if on else (170, 170, 170))
        canvas.ellipse((knob, top + 10, knob + 11, top + 21), WHITE)


def _clock(canvas: Canvas, phone: SimPhone) -> None:
    _header(canvas, phone, APP_COLOURS["clock"], "clock")
    colours = phone.style.colours
    canvas.rect((4, CELL + 4, 92, 3 * CELL - 4), None, colours.line)
    for i, hour in enumerate(phone.state.alarms[-2:]):
        canvas.text(10, CELL + 8 + i * 24, f"{hour}:00", 18, colours.ink)
    plus = phone._elements_clock()[0]
    canvas.ellipse((plus.left + 2, plus.top + 2, plus.right - 2, plus.bottom - 2), (220, 60, 50))
    canvas.text(plus.left + 10, plus.top + 4, "+", 18, WHITE)


def _new_alarm(canvas: Canvas, phone: SimPhone) -> None:
    _header(canvas, phone, (90, 20, 90), "new alarm")
    *hours, save = phone._elements_new_alarm()
    for element in hours:
        chosen = phone.state.hour == element.name
        box = (element.left + 3, element.top + 3, element.right - 3, element.bottom - 3)
        canvas.rect(box, (60, 160, 250) if chosen else (225, 225, 225))
        canvas.text(element.left + 8, element.top + 5, element.name, 18, BLACK)
    box = (save.left + 4, save.top + 4, save.right - 4, save.bottom - 4)
    canvas.rect(box, (40, 180, 60) if phone.state.hour else (170, 170, 170))
    canvas.text(save.left + 16, save.top + 9, phone.style.label("save"), 11, WHITE)


def _notes(canvas: Canvas, phone: SimPhone) -> None:
    state = phone.state
    _header(canvas, phone, APP_COLOURS["notes"], "notes")
    _field(canvas, phone, state.typed, "", state.focused)
    for i, note in enumerate(state.notes[-2:]):
        canvas.text(8, 2 * CELL + 8 + i * 20, note, 11, phone.style.colours.ink)
    if state.focused:
        _keyboard(canvas)


def _plain(canvas: Canvas, phone: SimPhone) -> None:
    app = phone.state.screen
    _header(canvas, phone, APP_COLOURS[app], app)
    canvas.rect((24, 70, 72, 118), APP_COLOURS[app])
    canvas.text(40, 80, app[0].upper(), 22, WHITE)


def _loading(canvas: Canvas, phone: SimPhone) -> None:
    angle = phone.state.animation / 8 * 2 * math.pi
    x, y = 48 + 14 * math.cos(angle), 104 + 14 * math.sin(angle)
    canvas.ellipse((30, 86, 66, 122), None, phone.style.colours.line, 3)
    canvas.ellipse((x - 5, y - 5, x + 5, y + 5), (60, 120, 250))


def _advert(canvas: Canvas, phone: SimPhone) -> None:
    canvas.rect((0, CELL, WIDTH, 4 * CELL + 16), (255, 0, 160))
    canvas.text(14, 2 * CELL + 10, phone.style.label("FREE!"), 18, WHITE)
    canvas.rect((20, 3 * CELL + 8, 76, 3 * CELL + 30), (255, 255, 0))
    column, row = AD_CROSSES[phone.state.ad or 0]
    left, right = phone.style.x(column * CELL, (column + 1) * CELL)
    top = row * CELL
    canvas.rect((left + 5, top + 5, right - 5, top + 27), (30, 30, 30))
    canvas.text(left + 11, top + 4, "x", 18, WHITE)


def _not_responding(canvas: Canvas, phone: SimPhone) -> None:
    ink = phone.style.colours.ink
    canvas.rect((0, 3 * CELL, WIDTH, 5 * CELL), phone.style.colours.field, ink, 2)
    canvas.text(8, 3 * CELL + 10, phone.style.label("not responding"), 10, ink)
    for word, extent in (("wait", (4, 46)), ("close", (50, 92))):
        left, right = phone.style.x(*extent)
        canvas.rect((left, 4 * CELL + 5, right, 5 * CELL - 4), (60, 160, 250) if word == "wait" else (200, 70, 60))
        canvas.text(left + 7, 4 * CELL + 9, phone.style.label(word), 11, WHITE)


_SCREENS = {
    "home": _home,
    "browser": _browser,
    "shop": _shop,
    "results": _results,
    "product": _product,
    "cart": _cart,
    "settings": _settings,
    "clock": _clock,
    "new_alarm": _new_alarm,
    "notes": _notes,
}
