"""Judges decide whether the goal of an episode is reached, after every action.

The oracle judge asks the device itself; only simulated devices and stubs know. A judge may keep state over the
screens of one episode, so it is made per environment (by a factory) and is never shared.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import Task


class Judge(Protocol):
    """Anything that decides success; ``name`` is recorded in the episode."""

    name: str

    def success(self, task: Task, device: object, screen: bytes) -> bool:
        """Whether the goal of ``task`` is reached, given the device and its encoded screen after the action."""
        ...


@runtime_checkable
class KnowsSuccess(Protocol):
    """A device that knows whether its prepared task is done."""

    def succeeded(self) -> bool:
        """Whether the goal is reached now."""
        ...


def ask_device(device: object) -> bool:
    """The device's own knowledge of success.

    Raises:
        InputError: the device does not know.
    """
    if not isinstance(device, KnowsSuccess):
        name = getattr(getattr(device, "info", None), "name", None) or type(device).__name__
        raise InputError(
            f"device {name!r} cannot tell whether a task is done: "
            "use a judge that looks at the screen, or a simulated device"
        )
    return device.succeeded()


class OracleJudge:
    """Asks the device; keeps no state."""

    name = "oracle"

    def success(self, task: Task, device: object, screen: bytes) -> bool:
        """What the device says; raises ``InputError`` for a device that does not know."""
        del task, screen
        return ask_device(device)
