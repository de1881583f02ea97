"""``digiq serve``: policy, candidates, features and Q-values over HTTP, as a Ray Serve application."""

from __future__ import annotations

from serve.app.deployment import build, publish

__all__ = ["build", "publish"]
