"""``digiq serve``: a policy, its candidates, features and Q-values over HTTP, until the process is told to end."""

from __future__ import annotations

import functools
import signal
import threading
from typing import Any

import click

from digiq_ray.cli.common import Report, config_options
from serve.app.settings import TOKENS_VARIABLE, ServeSettings

SHORTCUTS = {
    "--host": "host",
    "--port": "port",
    "--metrics-port": "metrics_port",
    "--backend": "backend",
    "--policy": "policy",
    "--replicas": "scaling.max_replicas",
}


def _serve(config: ServeSettings) -> Report:
    from digiq_ray.loops.reaper import Reaper
    from serve.app.server import Server

    ended = threading.Event()
    with Reaper():
        server = Server(config)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: ended.set())
            host = f"[{config.host}]" if ":" in config.host else config.host
            url = f"http://{host}:{config.port}"
            click.echo(
                f"serving {config.model} at {url} (API: {url}/docs); SIGTERM or Ctrl-C drains and ends", err=True
            )
            ended.wait()
        finally:
            click.echo("draining: requests under way finish", err=True)
            server.drain()
    return {"url": url, "model": config.model, "backend": config.backend, "drained": True}


_configured = config_options(ServeSettings, SHORTCUTS)(_serve)


@click.command(short_help="policy, candidates, features and Q-values over HTTP")
@click.argument("model", required=False)
@functools.wraps(_configured)
def serve(model: str | None, overrides: tuple[str, ...], **rest: Any) -> None:
    """See ``serve.help``: it names the variable of the tokens."""
    first = () if model is None else (f"model={model}",)
    _configured(overrides=(*first, *overrides), **rest)


serve.help = f"""Serves MODEL: a run's directory, or a bare model ('tiny', a path or a Hugging Face id).

A run gives a policy, features and Q; a bare model chat and candidates only. It listens on loopback; for another --host
set {TOKENS_VARIABLE} to one or more tokens, separated by commas. Every replica loads the models: --replicas is the
most that autoscaling may start."""
