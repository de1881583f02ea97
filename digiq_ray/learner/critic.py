"""TD training of the critic on the stores, and what its values look like afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import StoreError
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import CriticSettings, FeatureSettings, RunSettings
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.novelty import Novelty
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.diagnostics.bounds import value_bound
from digiq_ray.learner.critic_figures import extremes, figures_of, novelty_figures
from digiq_ray.learner.data import FeatureViews
from digiq_ray.learner.distributed import joined
from digiq_ray.learner.events import log_figures
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.models import save_critic
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.learner.shared import by_first, found_by_first
from digiq_ray.learner.training import OnStep, train
from digiq_ray.learner.training_data import training_data
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.vlm.features import layer_number
from digiq_ray.vlm.model import Vlm


def train_critic(root: Path, settings: RunSettings, on_step: OnStep, *, name: str = "critic") -> dict[str, Any]:
    """Trains Q and V heads and publishes them under ``name``.

    Returns:
        Curves, the final TD error, how far training states lie from their middle, action sensitivity, rank agreement of
        the heads, the largest Q and the largest that the rewards allow, and a sample of Q at executed actions by
        outcome.

    Raises:
        StoreError: there is nothing to train on, or a reward or a feature is not a finite number.
        FingerprintMismatchError: the features were made in another way than the settings say.
    """
    paths, chosen, spread = RunPaths(root), settings.critic, joined()
    stores = PinnedStores.open(paths)
    views = FeatureViews.open(paths.features, stores.snapshots)
    require_configured(views.states.fingerprint, settings.features, paths.model("feature_vlm"))
    place = paths.checkpoints(f"{name}_data")
    found = found_by_first(spread, lambda: training_data(place, stores, views, chosen))
    if not found.about.rewarded:
        raise StoreError(
            f"none of {found.about.episodes} episodes has a reward, so Q would be the same everywhere: collect more "
            "(collect.episodes), with a behaviour policy or tasks of which some succeed"
        )
    data, seed = found.data, seed_of("critic", settings.seed)
    critic = Critic(shape_of(chosen, views.states.dim, views.actions.dim), seed=seed)
    critic.v_heads.normalise.fit(data.state_features)
    critic.q_heads.normalise.fit(data.action_features)
    novelty = Novelty(views.states.dim)
    novelty.fit(data.state_features)
    trainer = CriticTrainer(critic, data, chosen, seed=seed, spread=spread)
    stores.keep()
    figures = train(
        trainer,
        name=name,
        checkpoints=paths.checkpoints(name, settings.learner.checkpoints),
        fingerprints=fingerprints_of(stores, views.states.fingerprint, settings),
        logs=paths.logs,
        every=10 * settings.learner.checkpoint_every,
        deadline=settings.learner.checkpoint_seconds,
        on_step=on_step,
        spread=spread,
    )
    critic.eval().cpu()
    by_first(spread, lambda: save_critic(critic, novelty, paths.model(name)))
    far = novelty_figures(novelty, data.state_features, settings.policy.max_novelty)
    by_first(spread, lambda: log_figures(paths.logs, name, far))
    return {
        "rows": len(data),
        "episodes_left_out": found.about.left_out,
        "most_candidates": found.about.width,
        "least_return": found.about.least_return,
        "largest_return": found.about.largest_return,
        **far,
        **figures_of(critic, found),
        # Losses that classify between bounds cannot leave them.
        "value_bound": value_bound(*extremes(data)) if chosen.loss in ("mse", "huber") else None,
        "td_error": figures["td_error"][-1][1] if figures.get("td_error") else 0.0,
        "curve": [
            [step, error, *(figures[name][i][1] for name in ("v_error", "q_mean"))]
            for i, (step, error) in enumerate(figures.get("td_error", []))
        ],
        "target_curve": figures.get("target_change", []),
    }


def fingerprints_of(stores: PinnedStores, features: Fingerprint, settings: RunSettings) -> Fingerprints:
    """What a training on the features of a run is of."""
    return Fingerprints(
        data=stores.hashes,
        features=dataclasses.asdict(features),
        configuration={"seed": settings.seed, "critic": settings.critic.model_dump(mode="json")},
    )


def train_monte_carlo(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, float]:
    """Trains the critic of the method ``mc``: as ``train_critic`` but for its targets, which are the returns.

    It is published as ``critic_mc``, with checkpoints of its own.

    Returns:
        Its final error and how well it tells actions apart.
    """
    without = {"objective": "mc", "backup_support": 1, "backup_probability": 0.0}
    monte_carlo = settings.critic.model_copy(update=without)
    figures = train_critic(root, settings.model_copy(update={"critic": monte_carlo}), on_step, name="critic_mc")
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def require_configured(found: Fingerprint, chosen: FeatureSettings, model: Path) -> None:
    """Raises ``FingerprintMismatchError`` if features were not made from ``model`` in the way of the settings.

    The model's weights are not looked at, which takes as long as loading them. Without the model (in a run that was
    imported) nothing is compared.
    """
    if not model.is_dir():
        return
    vlm = Vlm.outline(model)
    wanted = Fingerprint(
        model=found.model,
        layer=layer_number(vlm, chosen.layer),
        pooling=chosen.pooling,
        prompt=vlm.template.digest,
        image=vlm.transform.description,
    )
    found.require(wanted, where=str(model))


def shape_of(chosen: CriticSettings, state_dim: int, action_dim: int) -> CriticShape:
    """The critic that the settings ask for, on features of these lengths."""

    def head(widths: list[int]) -> HeadShape:
        return HeadShape(tuple(widths), chosen.activation, chosen.layer_norm, chosen.dropout)

    return CriticShape(
        state_dim=state_dim,
        action_dim=action_dim,
        q=head(chosen.q_widths),
        v=head(chosen.v_widths),
        heads=chosen.heads,
        aggregate=chosen.aggregate,
        loss=chosen.loss,
        bins=chosen.bins,
        low=chosen.low,
        high=chosen.high,
        normalise=chosen.normalise,
    )
