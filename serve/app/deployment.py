"""The Ray Serve application: replicas that do the work, and the record of the published policy beside them.

No ``from __future__ import annotations`` here: Serve makes ``ServeArguments`` of what a configuration file says only if
it finds the class itself, not its name, at the argument of ``build``.
"""

from typing import Any

from ray import serve

from digiq_ray.core.errors import error_chain
from serve.app.access import read_tokens
from serve.app.publisher import PUBLISH_SECONDS, PUBLISHER, REPLICA, Publisher
from serve.app.replica import Replica
from serve.app.settings import ServeArguments
from serve.app.sources import find_sources
from serve.backends import check_backend

APPLICATION = "digiq"
_SPARE_REQUESTS = 16  # room for Serve's own calls, and for answers that say 429
_HEALTH_PERIOD_SECONDS = 10.0
_STARTS = 2  # of a replica, before the application has failed to come up


def build(arguments: ServeArguments) -> serve.Application:
    """The application, as ``serve deploy`` and ``serve run`` build it (``serve.app:build``).

    Raises:
        InputError: the backend is not installed, the run has no such policy, or a token is too short.
    """
    check_backend(arguments.backend)
    find_sources(arguments.model, arguments.policy)
    read_tokens()
    scaling, limits = arguments.scaling, arguments.limits
    publisher = serve.deployment(Publisher, name=PUBLISHER, ray_actor_options={"num_cpus": 0})
    replica = serve.deployment(
        Replica,
        name=REPLICA,
        ray_actor_options={"num_cpus": scaling.cpus, "num_gpus": scaling.gpus},
        max_ongoing_requests=limits.in_flight + _SPARE_REQUESTS,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_requests,
        },
        max_constructor_retry_count=_STARTS,
        health_check_period_s=_HEALTH_PERIOD_SECONDS,
        graceful_shutdown_timeout_s=arguments.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return replica.bind(arguments, publisher.bind())


def publish(version: str, checkpoint: str, *, application: str = APPLICATION) -> int:
    """Publishes a saved policy to an application that runs on the cluster this process is connected to.

    Returns:
        How many replicas took it.

    Raises:
        ModelError: the checkpoint cannot be loaded; the version before stays.
    """
    handle: Any = serve.get_deployment_handle(PUBLISHER, application)
    try:
        return int(handle.publish.remote(version, checkpoint).result(timeout_s=PUBLISH_SECONDS))
    except Exception as error:
        typed = [link for link in error_chain(error) if type(link).__module__.startswith("digiq_ray.")]
        if typed:
            raise typed[-1] from error
        raise
