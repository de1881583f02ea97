"""What can go wrong with the stub's phones, and a plan that says when.

A plan names frames of episodes, or gives each kind a probability per frame; the draws are counter-based, so that the
same seed strikes at the same frames whatever else runs. Faults strike when the frame is asked for, in the middle of
the request. See ``StubPhone.inject`` for what each does and what ends it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from digiq_ray.core.errors import InputError
from digiq_ray.core.rng import seed_of, uniforms


class StubFault(enum.StrEnum):
    """Kinds of faults.

    ``UIA2_CRASH``: the instrumentation ends and its connections break; a new session mends it. ``ADB_OFFLINE``: adb
    says offline and the forwarded ports are cut, until a reconnect or a restore. ``PORT_CLASH``: the next session's
    port cannot be bound. ``STOLEN_SESSION``: another client takes the phone. ``NOT_RESPONDING``: Android's dialog
    covers the screen until it is answered. The others are about the coming screenshots: late, cut off in the middle,
    the same as the last one, or of another size.
    """

    UIA2_CRASH = "uia2_crash"
    ADB_OFFLINE = "adb_offline"
    PORT_CLASH = "port_clash"
    STOLEN_SESSION = "stolen_session"
    NOT_RESPONDING = "not_responding"
    SLOW_SCREENSHOT = "slow_screenshot"
    TRUNCATED_SCREENSHOT = "truncated_screenshot"
    FROZEN_SCREENSHOT = "frozen_screenshot"
    WRONG_SIZE = "wrong_size"


PICTURE_FAULTS = (
    StubFault.SLOW_SCREENSHOT,
    StubFault.TRUNCATED_SCREENSHOT,
    StubFault.FROZEN_SCREENSHOT,
    StubFault.WRONG_SIZE,
)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault.

    Attributes:
        kind: What goes wrong.
        step: At the frame after this many steps of an episode; 0 is the one of the reset.
        episode: In this episode of the phone, from 0; ``None`` in each.
        shots: How many screenshots a fault of the picture spoils.
        seconds: How late ``SLOW_SCREENSHOT`` makes them.
    """

    kind: StubFault
    step: int
    episode: int | None = 0
    shots: int = 1
    seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StubFaultPlan:
    """Which faults strike when.

    Attributes:
        faults: Named ones.
        rates: Probability per frame of each kind; together at most 1.
        seed: Decides the draws.
        shots, seconds: Of the faults that are drawn.

    Raises:
        InputError: the rates are no probabilities.
    """

    faults: tuple[PlannedFault, ...] = ()
    rates: Mapping[StubFault, float] = field(default_factory=dict)
    seed: int = 0
    shots: int = 1
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if min(self.rates.values(), default=0.0) < 0 or sum(self.rates.values()) > 1:
            raise InputError(f"fault rates must be at least 0 and sum to at most 1, not {dict(self.rates)}")

    def due(self, udid: str, episode: int, step: int) -> list[PlannedFault]:
        """The faults of one frame, a pure function of the plan and of which frame it is."""
        named = [fault for fault in self.faults if fault.step == step and fault.episode in (None, episode)]
        left = float(uniforms(seed_of(self.seed, udid, episode), step))
        for kind in StubFault:
            left -= self.rates.get(kind, 0.0)
            if left < 0:
                return [*named, PlannedFault(kind, step, episode, self.shots, self.seconds)]
        return named
