"""An S3 server on loopback in a process of its own: moto, made atomic.

``python s3_server.py`` prints its address and serves until its standard input ends, so it never outlives who started
it. Requests are handled one at a time: to look whether an object exists and to store it are two steps in moto, where
they are one in S3.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

PAGE = 1000 if os.environ.get("DIGIQ_TEST_MANY_WRITERS") else 7
"""Names in one page of a listing: few, so that every test of a listing is one of its pages too."""

_DEADLINE_S = 60


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that runs for as long as the context."""
    command = [sys.executable, __file__]
    environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), "the S3 server did not start"
            yield address
        finally:
            process.stdin.close()
            process.wait(_DEADLINE_S)


def _one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    lock = threading.Lock()

    def handle(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with lock:
            return list(application(environ, start_response))

    return handle


def main() -> None:
    """Serves until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None:
            """Says nothing of each request."""

    application = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    server.shutdown()
    thread.join(_DEADLINE_S)


if __name__ == "__main__":
    main()
