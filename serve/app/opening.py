"""Loading what there is to serve."""

from __future__ import annotations

import functools

import torch

from digiq_ray.learner.models import load_critic, load_novelty
from serve.app.metrics import Metrics
from serve.app.service import Service
from serve.app.settings import ServeArguments
from serve.app.sources import find_sources
from serve.backends import open_features, open_policy


async def open_service(arguments: ServeArguments) -> Service:
    """Loads what there is to serve.

    Raises:
        InputError: the backend is not installed, or the run has no such policy.
        ModelError: a model cannot be loaded.
    """
    torch.set_num_threads(arguments.threads)
    metrics = Metrics()
    sources = find_sources(arguments.model, arguments.policy)
    policy = await open_policy(arguments.backend, sources.policy, functools.partial(metrics.batch, "policy"))
    features = None
    if sources.features is not None:
        told = functools.partial(metrics.batch, "features")
        features = await open_features(arguments.backend, sources.features, sources.layer, sources.pooling, told)
    return Service(
        policy=policy,
        features=features,
        critic=None if sources.critic is None else load_critic(sources.critic),
        novelty=None if sources.critic is None else load_novelty(sources.critic),
        lacking=sources.lacking,
        limits=arguments.limits,
        metrics=metrics,
    )
