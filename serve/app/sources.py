"""What a run's directory, or a bare model, has to serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from digiq_ray.core.config import load_config
from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.paths import RunPaths
from digiq_ray.vlm.hub import ADAPTER, find_model

_NOT_POLICIES = ("feature_vlm", "critic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the parts are.

    Attributes:
        policy: The model that acts.
        features: The model that features are read from; ``None`` if there is none.
        layer, pooling: How they are read.
        critic: Directory of Q and V; ``None`` if there is none.
        lacking: Why there is no Q, for whoever asks for it; empty if there is.
    """

    policy: str
    features: str | None = None
    layer: int = -2
    pooling: str = "last_and_action"
    critic: Path | None = None
    lacking: str = ""


def find_sources(model: str, policy: str) -> Sources:
    """The parts of the run in ``model``, or those of a bare model: a policy and nothing else.

    Raises:
        InputError: the run has no such policy, or a place holds neither a run nor a model.
        ModelError: the hub has no such model.
        ConfigError: the run's configuration is not readable.
    """
    root = Path(model)
    if not (root / "config.yaml").is_file():
        is_a_place = root.is_dir() or root.is_absolute() or model.startswith(".")
        if is_a_place and not any((root / name).is_file() for name in ("config.json", ADAPTER)):
            raise InputError(f"there is neither a run (config.yaml) nor a model (config.json) in {model!r}")
        if model != "tiny":
            find_model(model)
        return Sources(policy=model, lacking="this server has a bare model; serve a run's directory for features and Q")
    settings, paths = load_config(RunSettings, root / "config.yaml"), RunPaths(root.absolute())
    extractor, critic = paths.model("feature_vlm"), paths.model("critic")
    missing = [
        command
        for path, command in ((extractor, "digiq finetune"), (critic, "digiq train-critic"))
        if not path.is_dir()
    ]
    return Sources(
        policy=settings.vlm.model if policy == "behaviour" else _trained(paths, policy),
        features=str(extractor) if extractor.is_dir() else None,
        layer=settings.features.layer,
        pooling=settings.features.pooling,
        critic=None if missing else critic,
        lacking=f"the run that is served is not so far: {' and '.join(missing)} would come first" if missing else "",
    )


def _trained(paths: RunPaths, policy: str) -> str:
    there = sorted(
        path.name for path in paths.model("x").parent.glob("[!.]*") if path.is_dir() and path.name not in _NOT_POLICIES
    )
    if policy not in there:
        names = ", ".join([*there, "behaviour"])
        raise InputError(f"{paths.root} has no policy {policy!r}; it has: {names} (digiq train-policy makes digi_q)")
    return str(paths.model(policy).resolve())  # the version that is the latest now
