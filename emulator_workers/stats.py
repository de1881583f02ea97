"""What a rollout has done so far, in counters that add up over slots, runs and workers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from emulator_workers.phases import Phase


@dataclass(slots=True, kw_only=True)
class RolloutStats:
    """Counters of a rollout. Another thread may read it while it grows.

    Attributes:
        episodes: Episodes handed on.
        steps: Actions taken, those of episodes that were begun again included.
        resets: Resets tried.
        rejected: Actions that a device refused.
        redraws: Actions that were no actions, and for which the policy was asked again.
        retries: Jobs begun again after a device error.
        restarts: Devices restarted because of their age or on request.
        looks: Rounds in which somebody looked after the slots; with steps and resets, a sign of life.
        slot_seconds: Time that the slots could have used: that of each slot with a thread of its own, the wall time of
            a rollout in rounds.
        cpu_seconds: Processor time of the process, which is that of our own code when devices are elsewhere.
        phase_seconds: Time spent in each phase, by its name.
        device_errors: Device errors by cause: the name of their type.
        recoveries: What was done about them, by rung.
        tags: How waits for a settled screen ended.
        quarantined: Names of devices that are not used again.
    """

    episodes: int = 0
    steps: int = 0
    resets: int = 0
    rejected: int = 0
    redraws: int = 0
    retries: int = 0
    restarts: int = 0
    looks: int = 0
    slot_seconds: float = 0.0
    cpu_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    device_errors: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    quarantined: list[str] = field(default_factory=list)

    @property
    def policy_seconds(self) -> float:
        """Time spent waiting for the policy."""
        return self.phase_seconds.get(Phase.POLICY.value, 0.0)

    @property
    def device_seconds(self) -> float:
        """Time spent in devices and judges."""
        return sum(seconds for name, seconds in self.phase_seconds.items() if name != Phase.POLICY)

    @property
    def utilisation(self) -> float | None:
        """Share of the slots' time in which a device or a judge worked; ``None`` before any time has passed."""
        return self.device_seconds / self.slot_seconds if self.slot_seconds else None

    @property
    def beats(self) -> int:
        """Changes as long as anything moves."""
        return self.steps + self.resets + self.looks

    def add(self, other: RolloutStats) -> None:
        """Adds the counts and times of ``other``."""
        for name in (entry.name for entry in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, count in dict(theirs).items():
                    mine[key] = mine.get(key, 0) + count
            else:
                setattr(self, name, mine + theirs)
