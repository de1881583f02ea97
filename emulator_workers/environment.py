"""A device with a task and a judge, in Gymnasium's shape, that records what happens as an RLDS episode.

A step parses the policy's text, applies it, waits until the screen has settled and asks the judge. It is never
retried, because a tap is not idempotent. Every frame is checked: one that cannot be decoded, or that was taken before
it was asked for, counts as a failure of the device, so that no transition is recorded with a wrong screen. A failing
device truncates the episode: the action whose outcome was not seen is left out, and the last good screen is the last
row. Each phase is timed by the environment's watch, which other threads may read; what bounds a step is the device,
the settle's deadlines, and whoever supervises the watch and gives a hanging device up.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, runtime_checkable

from PIL import Image

from digiq_ray.core.actions import Action, ActionType, Dialect, ParseError, parse_action
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import Judge
from emulator_workers.devices.base import ActionRejected, Device, DeviceError, Frame, Key, Recovery, Reset
from emulator_workers.phases import Phase, Watch
from emulator_workers.settle import SettleSettings, settle

OnParseError = Literal["idle", "resample", "end"]
LONG_PRESS_MS = 800
_WITHOUT_EFFECT = (ActionType.WAIT, ActionType.COMPLETE, ActionType.IMPOSSIBLE)
_KEYS = {ActionType.BACK: Key.BACK, ActionType.HOME: Key.HOME, ActionType.ENTER: Key.ENTER}


class BrokenFrame(DeviceError):
    """A screenshot cannot be decoded, or was taken before it was asked for."""

    recovery = Recovery.NEW_SESSION


@runtime_checkable
class TaskAware(Protocol):
    """A device that wants to know its task before it is reset (a simulated phone starts on the task's seed)."""

    def prepare(self, task: Task) -> None:
        """Sets the task that the next ``reset`` starts."""
        ...


@runtime_checkable
class FrameByFrame(Protocol):
    """A device whose time passes a frame at a time (a simulated phone behind a web page or a real driver)."""

    def next_frame(self) -> None:
        """Lets one frame pass at the next look; further looks show the same one."""
        ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy sees: the encoded screen, the goal's text, and the texts of the actions so far, oldest first."""

    screen: bytes
    task: str
    history: tuple[str, ...]


class StepInfo(TypedDict):
    """What else is known about a step.

    Keys:
        parse_error: Why the text is not an action, else ``None``.
        rejected: Why the device refused the action (it had no effect), else ``None``.
        device_error: What ended the episode as ``DEVICE_ERROR``, else ``None``.
        stop_reason: Why the episode ended, ``None`` while it goes on.
        tag: How the wait for a settled screen ended (``unsettled``, ``frozen``, ``blank``); ``None`` if it settled.
        seconds: What each phase of the step took.
    """

    parse_error: str | None
    rejected: str | None
    device_error: DeviceError | None
    stop_reason: StopReason | None
    tag: str | None
    seconds: dict[str, float]


def _blank() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (32, 32)).save(encoded, "PNG")
    return encoded.getvalue()


NO_SCREEN = _blank()
"""A black image: the only row of an episode whose device never showed a screen, so that every row can be decoded."""


class Environment:
    """One device, one judge, one task at a time. Not thread-safe, except for ``watch``, ``give_up`` and ``close``.

    Args:
        device: Started at the first ``reset`` and after each ``close``.
        judge: Made for this environment alone.
        on_parse_error: ``idle`` takes the next frame without acting; ``end`` stops as if the agent had; ``resample``
            lets a rollout ask the policy again, and idles when that did not help.
        dialect: The form in which the policy writes actions.
        settle: When a screen counts as settled; without it one frame is taken, as it is.
        on_close: Ends what was made for the device alone (its emulator), after the device is closed.

    Attributes:
        watch: Which phase goes on, and what each has taken.
        tags: How often a wait for a settled screen ended with which tag, in the present episode.
    """

    def __init__(
        self,
        device: Device,
        judge: Judge,
        on_parse_error: OnParseError = "idle",
        *,
        dialect: Dialect = Dialect.DIGIQ,
        settle: SettleSettings | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._device, self._judge, self._on_close = device, judge, on_close
        self._on_parse_error, self._dialect, self._settle = on_parse_error, dialect, settle
        self._started = False
        self._task: Task | None = None
        self._stop_reason: StopReason | None = None
        self._steps: list[Step] = []
        self._screen = NO_SCREEN
        self._tag: str | None = None
        self._seen_at = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.watch = Watch()
        self.tags: dict[str, int] = {}

    @property
    def device_name(self) -> str:
        """The device's name; the name of its class before it was started."""
        return self._device.info.name if self._device.info is not None else type(self._device).__name__

    def reset(self, task: Task, level: Reset = Reset.HOME, *, recovering: bool = False) -> Observation:
        """Starts an episode of ``task`` on a device that was reset as thoroughly as ``level`` says.

        Args:
            task: The goal.
            level: How thoroughly.
            recovering: Whether the time is that of a recovery, for the watch.

        Raises:
            DeviceError: the device cannot be started or reset. The episode has ended as ``DEVICE_ERROR``.
            InputError: the task's horizon allows no action.
        """
        if task.horizon < 1:
            raise InputError(f"task {task.task_id!r} has horizon {task.horizon}: give it at least 1")
        self._task, self._stop_reason, self._steps, self.tags = task, None, [], {}
        self._screen, self._tag, self._seen_at = NO_SCREEN, None, time.time()
        self._closed.clear()
        try:
            if not self._started:
                with self.watch.phase(Phase.RECOVER if recovering else Phase.BOOT):
                    self._device.start()
                    self._started = True
            with self.watch.phase(Phase.RECOVER if recovering else Phase.RESET):
                if isinstance(self._device, TaskAware):
                    self._device.prepare(task)
                asked = time.monotonic()
                self._screen = _checked(self._device.reset(level), asked).image
            if self._settle is not None:
                with self.watch.phase(Phase.SETTLE):
                    self._screen, self._tag = self._look(self._settle, None)
        except DeviceError:
            self._stop_reason = StopReason.DEVICE_ERROR
            self._started = self._started and self._device.info is not None  # a failed reset may have closed it
            raise
        self._seen_at = time.time()
        return self._observe(task)

    def step(self, result: ActResult) -> tuple[Observation, float, bool, bool, StepInfo]:
        """Does what the policy wrote.

        Returns:
            observation, reward (1.0 on success, else 0.0), terminated, truncated, info.

        Raises:
            DigiQError: no episode is running.
            InputError: the judge cannot judge this device.
        """
        if self._task is None or self._stop_reason is not None:
            raise DigiQError("step() needs a running episode: call reset(task) first")
        task, started, before = self._task, time.time(), dict(self.watch.seconds)
        action, parse_error = self._parse(result.text)
        info = StepInfo(
            parse_error=parse_error, rejected=None, device_error=None, stop_reason=None, tag=None, seconds={}
        )
        try:
            with self.watch.phase(Phase.ACT):
                info["rejected"] = self._apply(action)
            with self.watch.phase(Phase.SETTLE):
                acted = action is not None and action.type not in _WITHOUT_EFFECT and info["rejected"] is None
                screen, info["tag"] = self._look(self._settle, self._screen if acted else None)
            with self.watch.phase(Phase.JUDGE):
                success = self._judge.success(task, self._device, screen)
        except DeviceError as error:
            self._stop_reason = StopReason.DEVICE_ERROR
            info["device_error"], info["stop_reason"] = error, self._stop_reason
            return self._observe(task), 0.0, False, True, info
        finally:
            info["seconds"] = {
                phase.value: spent - before[phase]
                for phase, spent in self.watch.seconds.items()
                if spent > before[phase]
            }
        reward, ended = float(success), time.time()
        with self._lock:
            if self._stop_reason is None:
                self._steps.append(
                    Step(
                        *(self._screen, result.text, action, parse_error, reward, result.logprob, started, ended),
                        settle_tag=self._tag,
                    )
                )
                self._screen, self._tag, self._seen_at = screen, info["tag"], ended
                self._stop_reason = self._why_stop(task, success, action)
            info["stop_reason"] = self._stop_reason
        terminated = self._stop_reason is not None and self._stop_reason.is_terminal
        return self._observe(task), reward, terminated, self._stop_reason is not None and not terminated, info

    def wants_another(self, text: str) -> bool:
        """Whether the policy should be asked again, because ``text`` is no action and the setting is ``resample``."""
        return self._on_parse_error == "resample" and self._parse(text)[1] is not None

    def give_up(self) -> None:
        """Ends the episode as ``DEVICE_ERROR`` from another thread, while a call to the device hangs."""
        with self._lock:
            self._stop_reason = StopReason.DEVICE_ERROR

    def episode(self, episode_id: str, policy_version: str, device_name: str) -> Episode:
        """The episode that has ended: ``T`` actions and the final screen.

        Raises:
            DigiQError: no episode has ended since the last ``reset``.
        """
        with self._lock:
            if self._task is None or self._stop_reason is None:
                raise DigiQError("episode() needs an episode that has ended: step until terminated or truncated")
            last = Step(self._screen, None, None, None, 0.0, None, self._seen_at, self._seen_at, self._tag)
            return Episode(
                episode_id,
                self._task,
                (*self._steps, last),
                self._stop_reason,
                policy_version,
                device_name,
                self._judge.name,
            )

    def close(self) -> None:
        """Gives the device back; the next ``reset`` starts it again. Ends a wait for a settled screen."""
        self._closed.set()
        self._device.close()
        self._started = False
        if self._on_close is not None:
            self._on_close()

    def healthy(self) -> bool:
        """Whether the device answers."""
        return self._device.healthy()

    def _observe(self, task: Task) -> Observation:
        return Observation(self._screen, task.text, tuple(step.action_text or "" for step in self._steps))

    def _frame(self) -> Frame:
        asked = time.monotonic()
        return _checked(self._device.screenshot(), asked)

    def _look(self, settings: SettleSettings | None, before: bytes | None) -> tuple[bytes, str | None]:
        """The screen, once it has settled, and how the wait ended."""
        if settings is None:
            return self._frame().image, None
        if isinstance(self._device, FrameByFrame):
            self._device.next_frame()
        try:
            settled = settle(self._frame, settings, before=before, wait=self._closed.wait)
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenFrame(f"the device gave a screen that cannot be decoded: {error}") from error
        if settled.tag is None:
            return settled.frame.image, None
        self.tags[settled.tag.value] = self.tags.get(settled.tag.value, 0) + 1
        return settled.frame.image, settled.tag.value

    def _parse(self, text: str) -> tuple[Action | None, str | None]:
        try:
            return parse_action(text, self._dialect), None
        except ParseError as error:
            return None, str(error)

    def _apply(self, action: Action | None) -> str | None:
        """Acts on the device; returns why it refused, if it did. Waiting and stopping only take the next frame."""
        device = self._device
        try:
            match action:
                case Action(type=ActionType.TAP, x=float(x), y=float(y)):
                    device.tap(x, y)
                case Action(type=ActionType.LONG_PRESS, x=float(x), y=float(y)):
                    device.tap(x, y, hold_ms=LONG_PRESS_MS)
                case Action(type=ActionType.SWIPE, x=float(x), y=float(y), x2=float(x2), y2=float(y2)):
                    device.swipe(x, y, x2, y2)
                case Action(type=ActionType.TYPE, text=str(text)):
                    device.type_text(text)
                case Action(type=kind) if kind in _KEYS:
                    device.press(_KEYS[kind])
        except ActionRejected as error:
            return str(error)
        return None

    def _why_stop(self, task: Task, success: bool, action: Action | None) -> StopReason | None:
        if success:
            return StopReason.SUCCESS
        if action.ends_episode if action is not None else self._on_parse_error == "end":
            return StopReason.AGENT_STOP
        return StopReason.TIME_LIMIT if len(self._steps) >= task.horizon else None


def _checked(frame: Frame, asked: float) -> Frame:
    """The frame; ``BrokenFrame`` if it is stale or is not a whole image.

    A PNG is checked by its checksums, which costs far less than decoding it; other formats are decoded.
    """
    if frame.monotonic < asked:
        raise BrokenFrame(f"the device gave a screen that is {asked - frame.monotonic:.1f} s old")
    try:
        with Image.open(io.BytesIO(frame.image)) as image:
            if image.format == "PNG":
                image.verify()
            else:
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenFrame(f"the device gave {len(frame.image)} bytes that are no whole image: {error}") from error
    return frame
