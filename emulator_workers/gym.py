"""An ``Environment`` in Gymnasium's API, so that agents and wrappers written for it run on phones.

An action is the text of an action; an observation is a dictionary with the screen as an array, the goal, and the texts
of the actions so far. The adaptor adds a list of tasks, from which ``reset`` takes one by its seed, and decodes the
screens; everything else is the environment's. A device that fails truncates the episode, and the next ``reset`` mends
it: ``info["stop_reason"]`` says so.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from digiq_ray.core.errors import InputError
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import DeviceError, Reset
from emulator_workers.environment import Environment, Observation

LONGEST_ACTION = 512
LONGEST_TEXT = 4096
_CHARACTERS = frozenset(chr(code) for code in range(32, 127))
_RESETS = (Reset.HOME, Reset.SESSION, Reset.SNAPSHOT, Reset.REBOOT)


class PhoneEnv(gymnasium.Env[dict[str, Any], str]):
    """One phone.

    The observation space holds ``screen`` (height x width x 3, uint8), ``task`` (text) and ``history`` (a tuple of
    texts, oldest first). Texts are printable ASCII in actions; other characters of goals are shown as ``?``.

    Args:
        environment: The device, its judge and how actions are read. It is closed with this.
        tasks: What ``reset`` chooses from; ``reset(options={"task": n})`` names one.
        size: Width and height of the screens in pixels; other screens are scaled to it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self, environment: Environment, tasks: Sequence[Task], *, size: tuple[int, int], render_mode: str | None = None
    ) -> None:
        if not tasks:
            raise InputError("a PhoneEnv needs at least one task")
        self._environment, self._tasks, self._size = environment, list(tasks), size
        self.render_mode = render_mode
        text = spaces.Text(max_length=LONGEST_TEXT, min_length=0, charset=_CHARACTERS)
        self.action_space = spaces.Text(max_length=LONGEST_ACTION, min_length=1, charset=_CHARACTERS)
        self.observation_space = spaces.Dict(
            {
                "screen": spaces.Box(0, 255, (size[1], size[0], 3), np.uint8),
                "task": text,
                "history": spaces.Sequence(text),
            }
        )
        self._screen: NDArray[np.uint8] = np.zeros((size[1], size[0], 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode; a device that fails is mended more thoroughly with each try.

        Raises:
            DeviceError: the device cannot be reset, not even by a reboot.
            InputError: ``options`` names no task.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        number = int(self.np_random.integers(len(self._tasks))) if chosen is None else int(chosen)
        if not 0 <= number < len(self._tasks):
            raise InputError(f"there is no task {number}: give one from 0 to {len(self._tasks) - 1}")
        task = self._tasks[number]
        seen = self._reset(task)
        return self._shown(seen), {"task_id": task.task_id}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Does what the text says; ``info`` is the environment's ``StepInfo`` without its times."""
        seen, reward, terminated, truncated, info = self._environment.step(ActResult(action, 0.0, "gymnasium"))
        told = {key: value for key, value in info.items() if key != "seconds"}
        return self._shown(seen), reward, terminated, truncated, told

    def render(self) -> NDArray[np.uint8] | None:
        """The last screen, in ``rgb_array`` mode."""
        return self._screen if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Gives the device back."""
        self._environment.close()

    def _reset(self, task: Task) -> Observation:
        for level in _RESETS[:-1]:
            try:
                return self._environment.reset(task, level, recovering=level is not Reset.HOME)
            except DeviceError:
                continue
        return self._environment.reset(task, _RESETS[-1], recovering=True)

    def _shown(self, seen: Observation) -> dict[str, Any]:
        with Image.open(io.BytesIO(seen.screen)) as image:
            picture = image.convert("RGB")
        if picture.size != self._size:
            picture = picture.resize(self._size)
        self._screen = np.array(picture, dtype=np.uint8)
        history = tuple(_printable(text) for text in seen.history)
        return {"screen": self._screen, "task": _printable(seen.task), "history": history}


def _printable(text: str) -> str:
    return "".join(char if char in _CHARACTERS else "?" for char in text[:LONGEST_TEXT])
