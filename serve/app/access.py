"""Who may ask. With tokens in the environment, whoever has one; without, this machine only.

Tokens are kept as hashes, compared in constant time, all of them each time, and never logged. Without tokens the caller
must be on loopback and must have asked for a loopback name: a page in a browser that points a name of its own at this
machine is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any

from digiq_ray.core.errors import InputError
from serve.app.errors import ApiError
from serve.app.settings import TOKENS_VARIABLE

_SHORTEST = 16
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address (or ``localhost``) is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_tokens(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The tokens of ``DIGIQ_API_TOKENS``, separated by commas or spaces.

    Raises:
        InputError: one is too short to be a secret; the message does not hold it.
    """
    tokens = [token for token in re.split(r"[,\s]+", environment.get(TOKENS_VARIABLE, "")) if token]
    if any(len(token) < _SHORTEST for token in tokens):
        raise InputError(
            f"{TOKENS_VARIABLE} holds a token of less than {_SHORTEST} characters; make one with: openssl rand -hex 32"
        )
    return tokens


def check_address(host: str, tokens: list[str]) -> None:
    """Refuses to listen for other machines without a token.

    Raises:
        InputError: ``host`` is not loopback and there is no token.
    """
    if not is_loopback(host) and not tokens:
        raise InputError(
            f"{host} can be reached from other machines: set {TOKENS_VARIABLE} to one or more tokens, "
            "or leave out --host to serve this machine only"
        )


class Access:
    """Decides about requests by their ASGI scope."""

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    @property
    def has_tokens(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._digests)

    def check(self, scope: Mapping[str, Any]) -> None:
        """Lets a request pass, or not.

        Raises:
            ApiError: 401 without a right token, 403 where only this machine may ask.
        """
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"host")}
        if not self._digests:
            self._check_local(scope, headers)
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(given, digest)
        if scheme.lower() != b"bearer" or not found:
            raise ApiError(401, "a valid token is needed: Authorization: Bearer TOKEN")

    def _check_local(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> None:
        client = scope.get("client")
        if not client or not is_loopback(str(client[0])):
            raise ApiError(403, "this server has no tokens and answers its own machine only")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name not in _LOCAL_NAMES:
            raise ApiError(403, "this server has no tokens and answers to the name localhost only")
