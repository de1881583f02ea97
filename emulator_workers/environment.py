"""A device with a task and a judge, in Gymnasium's shape, that records what happens as an RLDS episode.

A step parses the policy's text, applies it, takes one frame and asks the judge. It is never retried, because a tap is
not idempotent. Every frame is checked: one that cannot be decoded, or that was taken before it was asked for, counts
as a failure of the device, so that no transition is recorded with a wrong screen. A failing device truncates the
episode: the action whose outcome was not seen is left out, and the last good screen is the last row.
"""

from __future__ import annotations

import io
import time
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

LONG_PRESS_MS = 800
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
    """

    parse_error: str | None
    rejected: str | None
    device_error: DeviceError | None
    stop_reason: StopReason | None


def _blank() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (32, 32)).save(encoded, "PNG")
    return encoded.getvalue()


NO_SCREEN = _blank()
"""A black image: the only row of an episode whose device never showed a screen, so that every row can be decoded."""


class Environment:
    """One device, one judge, one task at a time. Not thread-safe.

    Args:
        device: Started at the first ``reset`` and after each ``close``.
        judge: Made for this environment alone.
        on_parse_error: ``idle`` takes the next frame without acting; ``end`` stops as if the agent had.
        dialect: The form in which the policy writes actions.
    """

    def __init__(
        self,
        device: Device,
        judge: Judge,
        on_parse_error: Literal["idle", "end"] = "idle",
        *,
        dialect: Dialect = Dialect.DIGIQ,
    ) -> None:
        self._device, self._judge = device, judge
        self._on_parse_error, self._dialect = on_parse_error, dialect
        self._started = False
        self._task: Task | None = None
        self._stop_reason: StopReason | None = None
        self._steps: list[Step] = []
        self._screen = NO_SCREEN
        self._seen_at = 0.0

    @property
    def device_name(self) -> str:
        """The device's name; the name of its class before it was started."""
        return self._device.info.name if self._device.info is not None else type(self._device).__name__

    def reset(self, task: Task, level: Reset = Reset.HOME) -> Observation:
        """Starts an episode of ``task`` on a device that was reset as thoroughly as ``level`` says.

        Raises:
            DeviceError: the device cannot be started or reset. The episode has ended as ``DEVICE_ERROR``.
            InputError: the task's horizon allows no action.
        """
        if task.horizon < 1:
            raise InputError(f"task {task.task_id!r} has horizon {task.horizon}: give it at least 1")
        self._task, self._stop_reason, self._steps = task, None, []
        self._screen, self._seen_at = NO_SCREEN, time.time()
        try:
            if not self._started:
                self._device.start()
                self._started = True
            if isinstance(self._device, TaskAware):
                self._device.prepare(task)
            asked = time.monotonic()
            self._screen = _checked(self._device.reset(level), asked)
        except DeviceError:
            self._stop_reason = StopReason.DEVICE_ERROR
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
        task, started = self._task, time.time()
        action, parse_error = self._parse(result.text)
        info = StepInfo(parse_error=parse_error, rejected=None, device_error=None, stop_reason=None)
        try:
            info["rejected"] = self._apply(action)
            asked = time.monotonic()
            screen = _checked(self._device.screenshot(), asked)
            success = self._judge.success(task, self._device, screen)
        except DeviceError as error:
            self._stop_reason = StopReason.DEVICE_ERROR
            info["device_error"], info["stop_reason"] = error, self._stop_reason
            return self._observe(task), 0.0, False, True, info
        reward, ended = float(success), time.time()
        self._steps.append(Step(self._screen, result.text, action, parse_error, reward, result.logprob, started, ended))
        self._screen, self._seen_at = screen, ended
        self._stop_reason = info["stop_reason"] = self._why_stop(task, success, action)
        terminated = self._stop_reason is not None and self._stop_reason.is_terminal
        return self._observe(task), reward, terminated, self._stop_reason is not None and not terminated, info

    def episode(self, episode_id: str, policy_version: str, device_name: str) -> Episode:
        """The episode that has ended: ``T`` actions and the final screen.

        Raises:
            DigiQError: no episode has ended since the last ``reset``.
        """
        if self._task is None or self._stop_reason is None:
            raise DigiQError("episode() needs an episode that has ended: step until terminated or truncated")
        last = Step(self._screen, None, None, None, 0.0, None, self._seen_at, self._seen_at)
        steps = (*self._steps, last)
        return Episode(episode_id, self._task, steps, self._stop_reason, policy_version, device_name, self._judge.name)

    def close(self) -> None:
        """Gives the device back; the next ``reset`` starts it again."""
        self._device.close()
        self._started = False

    def _observe(self, task: Task) -> Observation:
        return Observation(self._screen, task.text, tuple(step.action_text or "" for step in self._steps))

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


def _checked(frame: Frame, asked: float) -> bytes:
    """The frame's image; ``BrokenFrame`` if it is stale or is not a whole image.

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
    return frame.image
