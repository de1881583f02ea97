"""The simulated phone behind the stub's screen: its clock, what touches it, and the picture that it shows.

**The clock.** ``SimulatedDevice`` lets one frame of time pass at each screenshot. Over Appium there are more
screenshots than observations: a session looks once when it opens, health probes look, a wait for a settled screen
looks many times. So a frame of time passes at the first screenshot after it became *due*, and further screenshots show
the same frame. What makes it due is ``Clock``: an input (for clients that know nothing of the stub), or ``tick`` alone
(for ``StubDevice``, which ticks where ``SimulatedDevice`` would have advanced, so that the same calls give the same
screens, waiting included). Input is applied at once and shown by the next screenshot in either case.
"""

from __future__ import annotations

import enum
import io
import threading

from PIL import Image

from digiq_ray.core.tasks import Task
from emulator_workers.simphone.phone import Hazards, SimPhone
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import HEIGHT, WIDTH, Release
from emulator_workers.stub.gestures import Enter, Gesture, Swipe, Tap, Text

IDLE = Task("stub/idle", "do nothing", 1, "test")
"""What a phone shows that nobody gave a task."""


class Clock(enum.StrEnum):
    """What makes a frame of time due."""

    ON_INPUT = "on_input"
    ON_TICK = "on_tick"


class PhoneScreen:
    """One simulated phone. Thread-safe. Touches are in pixels of its pictures.

    Args:
        scale: Pixels per unit of the 96 x 192 screen.
        release, style, hazards: See ``SimPhone``.
    """

    def __init__(
        self,
        *,
        scale: int = 1,
        release: Release = Release.UPDATED,
        style: Style | None = None,
        hazards: Hazards | None = None,
    ) -> None:
        self.width, self.height = WIDTH * scale, HEIGHT * scale
        self._scale, self._release, self._style, self._hazards = scale, release, style, hazards
        self._lock = threading.RLock()
        self._due = False
        self._png: bytes | None = None
        self.begin(IDLE, Clock.ON_INPUT)

    def begin(self, task: Task, clock: Clock) -> None:
        """A fresh phone for a task; no time has passed on it."""
        with self._lock:
            self.phone = SimPhone(task, release=self._release, style=self._style, hazards=self._hazards)
            self._clock, self._due, self._png = clock, clock is Clock.ON_INPUT, None

    def tick(self) -> None:
        """Makes a frame of time due; several ticks between two screenshots count as one."""
        with self._lock:
            self._due = True

    def pass_time(self) -> int | None:
        """Lets the frame that is due pass, if one is.

        Returns:
            Its number since the task began, from 0; ``None`` if no time has passed.
        """
        with self._lock:
            if not self._due:
                return None
            self._due, self._png = False, None
            self.phone.advance()
            return self.phone.state.frame - 1

    def png(self) -> bytes:
        """The screen now, encoded once for each picture that it shows."""
        with self._lock:
            if self._png is None:
                self._png = encode(render(self.phone, self._scale))
            return self._png

    def do(self, gesture: Gesture) -> None:
        """Carries out a gesture; text that nothing takes is lost."""
        with self._lock:
            match gesture:
                case Tap(x, y):
                    self.phone.tap(*self._share(x, y))
                case Swipe(x, y, x2, y2):
                    self.phone.swipe(*self._share(x, y), *self._share(x2, y2))
                case Text(text):
                    self.phone.type_text(text)
                case Enter():
                    self.phone.press_enter()
            self._touched()

    def press(self, keycode: int) -> None:
        """Presses a key by its Android code; those that the phone lacks do nothing."""
        with self._lock:
            match keycode:
                case 3:
                    self.phone.press_home()
                case 4:
                    self.phone.press_back()
                case 66:
                    self.phone.press_enter()
            self._touched()

    def takes_text(self) -> bool:
        """Whether text that is typed now is taken; asking changes nothing on the phone, but counts as an input."""
        with self._lock:
            self._due |= self._clock is Clock.ON_INPUT
            return self.phone.clone().type_text("")

    def show_not_responding(self) -> None:
        """Puts Android's dialog over what is shown."""
        with self._lock:
            self.phone.state.not_responding = True
            self._png = None

    def succeeded(self) -> bool:
        """Whether the task's goal is reached now."""
        with self._lock:
            return self.phone.succeeded()

    def _share(self, x: int, y: int) -> tuple[float, float]:
        """Normalised coordinates of a pixel's middle, which lies in the same element as all of that pixel."""
        return (x + 0.5) / self.width, (y + 0.5) / self.height

    def _touched(self) -> None:
        self._due |= self._clock is Clock.ON_INPUT
        self._png = None


def encode(image: Image.Image) -> bytes:
    """PNG, as ``SimulatedDevice`` encodes it."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
