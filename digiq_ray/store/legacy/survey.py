"""Second pass over a file: reads everything as the import will, writes nothing, and learns what the file holds.

So a file that cannot be imported is refused before anything of it is in a store, and what depends on the whole file
(horizon, width and type of the features) is known. What bounds memory: one trajectory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from digiq_ray.store.legacy.errors import FormatError, file_errors
from digiq_ray.store.legacy.file import LegacyFile, OnBytes
from digiq_ray.store.legacy.paths import convention
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.legacy.step import Feature
from digiq_ray.store.legacy.trajectory import read_trajectory

_KNOWN_HORIZONS = {"general": 10, "webshop": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a file holds.

    Attributes:
        layout: Which stage of the original wrote (most of) it: ``digirl``, ``digiq``, ``gradio`` or ``vllm``.
        image_paths: Whether a step's path is of the screen ``before`` or ``after`` its action, or ``unknown``.
        longest: Steps of the longest trajectory.
        candidates: Whether any step has candidates.
        state_dim, action_dim: Lengths of the features, ``None`` if there are none.
        dtype: Type that the features of candidates are kept in, ``None`` if there are none.
    """

    layout: str
    image_paths: str
    longest: int
    candidates: bool
    state_dim: int | None
    action_dim: int | None
    dtype: str | None

    def as_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def horizon(self, name: str) -> int:
        """Steps after which the original stopped an episode, if nobody says it.

        10 for the General files and 20 for the Web Shopping ones, known by their names; else the longest trajectory's.
        """
        known = [steps for word, steps in _KNOWN_HORIZONS.items() if word in name.lower()]
        return known[0] if len(known) == 1 and known[0] >= self.longest else max(1, self.longest)


def survey(file: LegacyFile, on_bytes: OnBytes | None = None) -> Survey:
    """Reads the whole file.

    Raises:
        InputError: the file holds no trajectory with a step, or something that the original does not write.
    """
    layouts: Counter[str] = Counter()
    conventions: Counter[str] = Counter()
    state_dims: Counter[int] = Counter()
    action_dims: Counter[int] = Counter()
    dtypes: set[str] = set()
    longest = 0
    candidates = False
    discarded = Findings()
    with file_errors(file.path):
        for index, raw in enumerate(file.trajectories(on_bytes)):
            trajectory = read_trajectory(index, raw, discarded)
            if trajectory is None:
                continue
            longest = max(longest, len(trajectory.steps))
            conventions[convention(trajectory.steps[0].image)] += 1
            for step in trajectory.steps:
                layouts[step.layout] += 1
                candidates |= bool(step.candidates)
                state_dims.update(_dims(step.state, step.next_state))
                action_dims.update(_dims(*step.features))
                dtypes.update(feature.dtype.name for feature in step.features if feature is not None)
        if not longest:
            raise FormatError("holds no step: there is nothing to import")
        return Survey(
            layout=layouts.most_common(1)[0][0],
            image_paths=conventions.most_common(1)[0][0],
            longest=longest,
            candidates=candidates,
            state_dim=_only("states", state_dims),
            action_dim=_only("candidates", action_dims),
            dtype="float16" if dtypes == {"float16"} else "float32" if dtypes else None,
        )


def _dims(*features: Feature | None) -> list[int]:
    return [len(feature) for feature in features if feature is not None]


def _only(what: str, dims: Counter[int]) -> int | None:
    if len(dims) > 1:
        raise FormatError(f"holds features of {what} of different lengths ({', '.join(map(str, sorted(dims)[:4]))})")
    return next(iter(dims), None)
