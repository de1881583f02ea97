"""How the phone looks: skin (colours), layout (where things stand) and language (what labels say).

The default styles are those of collection and evaluation. ``HELD_OUT`` is seen by nobody in training: a probe for
states out of the distribution. Layouts can also drift: each simulated day moves one more thing on the home screen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from digiq_ray.core.errors import InputError
from emulator_workers.simphone.world import APPS, WIDTH

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Skin:
    """Colours of what all screens share."""

    paper: RGB
    ink: RGB
    wallpaper: RGB
    line: RGB
    field: RGB


SKINS = {
    "light": Skin((245, 245, 245), (0, 0, 0), (200, 220, 235), (200, 200, 200), (255, 255, 255)),
    "sand": Skin((250, 243, 225), (40, 25, 10), (232, 216, 190), (205, 190, 165), (255, 252, 242)),
    "mint": Skin((232, 247, 240), (5, 40, 30), (196, 230, 214), (170, 205, 190), (250, 255, 252)),
    "night": Skin((35, 37, 45), (240, 240, 240), (20, 28, 48), (90, 92, 100), (60, 62, 72)),
}

LANGUAGES: dict[str, dict[str, str]] = {
    "en": {},
    "de": {
        "settings": "einstell.", "clock": "uhr", "mail": "post", "music": "musik", "camera": "kamera",
        "maps": "karten", "notes": "notizen", "weather": "wetter", "new alarm": "wecker", "save": "sichern",
        "search": "suchen", "add cart": "in korb", "added": "im korb", "cart": "korb", "DEAL!": "AKTION",
        "FREE!": "GRATIS", "INSTALL": "LADEN", "wait": "warten", "close": "ende", "not responding": "reagiert nicht",
        "wifi": "wlan", "airplane": "flugmodus", "location": "standort",
    },
    "es": {
        "settings": "ajustes", "clock": "reloj", "mail": "correo", "music": "musica", "camera": "camara",
        "maps": "mapas", "notes": "notas", "weather": "tiempo", "new alarm": "alarma", "save": "guardar",
        "search": "buscar", "add cart": "al carro", "added": "listo", "cart": "carro", "DEAL!": "OFERTA",
        "FREE!": "GRATIS", "INSTALL": "BAJAR", "wait": "espera", "close": "cerrar", "not responding": "no responde",
        "airplane": "avion", "location": "lugar",
    },
}  # fmt: skip

LAYOUTS = ("standard", "low", "mirrored")


@dataclass(frozen=True, slots=True)
class Style:
    """One look: names of a skin, a layout and a language, and how many days the layout has drifted.

    Raises:
        InputError: there is no skin, layout or language of that name, or the day is negative.
    """

    skin: str = "light"
    layout: str = "standard"
    language: str = "en"
    day: int = 0

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("skin", self.skin, SKINS),
            ("layout", self.layout, LAYOUTS),
            ("language", self.language, LANGUAGES),
        ):
            if name not in known:
                raise InputError(f"no {kind} {name!r} of the simulated phone; there are: {', '.join(known)}")
        if self.day < 0:
            raise InputError(f"a layout drifts from day 0 on, not from day {self.day}")

    @property
    def colours(self) -> Skin:
        """The colours of the skin."""
        return SKINS[self.skin]

    def label(self, text: str) -> str:
        """``text`` in the language of the phone."""
        return LANGUAGES[self.language].get(text, text)

    def x(self, left: float, right: float) -> tuple[float, float]:
        """A horizontal extent, mirrored if the layout is."""
        return (WIDTH - right, WIDTH - left) if self.layout == "mirrored" else (left, right)

    @property
    def first_row(self) -> int:
        """The row of cells in which lists and icons begin."""
        return 2 if self.layout == "low" else 1

    def apps(self) -> tuple[str, ...]:
        """Apps in the order of the home screen: each day of drift swaps two of them."""
        order = list(APPS)
        for day in range(self.day):
            first, second = random.Random(day).sample(range(len(order)), 2)
            order[first], order[second] = order[second], order[first]
        return tuple(order)


DEFAULT = (Style("light"), Style("sand"))
HELD_OUT = Style("night", "mirrored", "de")
