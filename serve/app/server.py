"""Starting the application on this machine, and ending it without losing a request.

The end is in order: Serve stops routing to the application, requests under way finish (``drain_seconds`` at most), and
only then the proxy, which carries their answers, is ended.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import closing

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from digiq_ray.core.errors import DigiQError, InputError
from serve.app.access import check_address, read_tokens
from serve.app.deployment import APPLICATION, build
from serve.app.settings import ServeArguments, ServeSettings
from serve.app.sources import find_sources
from serve.backends import check_backend

_DELETE_SECONDS = 30.0  # for Serve to end the replicas, beside the drain
_POLL_SECONDS = 0.2


def check(settings: ServeSettings) -> None:
    """Looks for what would go wrong, before anything is started.

    Raises:
        InputError: an address without a token, a port in use, a backend that is not installed, no such policy.
    """
    check_address(settings.host, read_tokens())
    check_backend(settings.backend)
    find_sources(settings.model, settings.policy)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            raise InputError(f"cannot listen on {place}: {error.strerror or error}; give another --port") from error


class Server:
    """The application, from its start to its end, in a Ray that is there or that is started for it.

    Attributes:
        url: Where it listens.
        metrics_port: Where Ray exports its figures; 0 is a port of Ray's choice.

    Args:
        settings: What to serve, and where.

    Raises:
        InputError: see ``check``.
        DigiQError: the application did not come up; the message says where its log is.
    """

    def __init__(self, settings: ServeSettings) -> None:
        check(settings)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url, self.metrics_port = f"http://{host}:{settings.port}", settings.metrics_port
        self._drain_seconds, self._ended = settings.drain_seconds, False
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(
                os.environ.get("RAY_ADDRESS") or "local",
                num_cpus=max(os.cpu_count() or 1, 1 + int(settings.scaling.max_replicas * settings.scaling.cpus)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=256 * 2**20,
                _metrics_export_port=settings.metrics_port or None,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(settings.threads)}},
            )
        try:
            self._start(settings)
        except BaseException:
            self.drain()
            raise

    def _start(self, settings: ServeSettings) -> None:
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.host, "port": settings.port},
            logging_config=quiet,
        )
        chosen = settings.model_dump(include=set(ServeArguments.model_fields))
        application = build(ServeArguments.model_validate(chosen))
        try:
            serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            status = serve.status().applications.get(APPLICATION)
            said = status.deployments if status else {}
            reasons = [one.message.strip().splitlines()[-1] for one in said.values() if one.message.strip()]
            raise DigiQError(f"the application did not come up: {' '.join(reasons) or error}") from error

    def drain(self) -> None:
        """Lets requests under way finish, then ends the application, Serve, and Ray if it was started here.

        May be called again.
        """
        if self._ended:
            return
        self._ended = True
        ends = time.monotonic() + self._drain_seconds + _DELETE_SECONDS
        serve.delete(APPLICATION, _blocking=False)
        while APPLICATION in serve.status().applications and time.monotonic() < ends:
            time.sleep(_POLL_SECONDS)  # Serve tells of it only when asked
        if self._own:
            ray.shutdown()  # and Serve with it
        else:
            serve.shutdown()
