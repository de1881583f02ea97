"""What can go wrong in talking to S3, sorted into three: try again, an answer the caller may expect, or the end.

Messages name the place, the code of the answer and what to check. They never repeat the text of an answer or of a
library, which may hold a key, a signature or an endpoint with a password in it.
"""

from __future__ import annotations

from aiohttp import ClientError as HTTPError
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.s3_location import S3Location

_TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
_EXPECTED = {
    404: "is not there",
    409: "is being written by somebody else",
    412: "is there already",
    416: "is too short",
}
_TRANSIENT_TYPES = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    HTTPError,
    ResponseParserError,
    ConnectionError,
    TimeoutError,
)
FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, OSError)
"""What a request to S3 may raise."""

_CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"


class S3Refusal(StoreError):
    """An answer that a caller may expect, by its HTTP status: 404, 412 or 416."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def transient(error: BaseException) -> str | None:
    """In a few words what went wrong, if the same request may well succeed a moment later; else ``None``."""
    if isinstance(error, boto.ClientError):
        status, code = _answer(error)
        retry = status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES
        return f"answer {status} {code}" if retry else None
    if isinstance(error, boto.SSLError):
        return None
    return type(error).__name__ if isinstance(error, _TRANSIENT_TYPES) else None


def final(error: BaseException, place: S3Location, endpoint: str) -> StoreError:
    """The one line to show for an error that another try would not mend."""
    if isinstance(error, boto.ClientError):
        return _refusal(error, place, endpoint)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return StoreUnreachableError(f"{place}: there are no complete credentials for S3; set {_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return StoreUnreachableError(
            f"{place}: {endpoint} does not prove who it is (TLS); check AWS_ENDPOINT_URL, AWS_CA_BUNDLE"
        )
    return StoreUnreachableError(
        f"{place}: S3 cannot be used ({type(error).__name__}); check the AWS_ environment variables"
    )


def _refusal(error: boto.ClientError, place: S3Location, endpoint: str) -> StoreError:
    status, code = _answer(error)
    if code == "NoSuchBucket":
        return StoreUnreachableError(
            f"{place}: there is no bucket {place.bucket!r} at {endpoint}; create it or correct the path"
        )
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
        return StoreUnreachableError(
            f"{place}: {endpoint} refuses access ({code}); check {_CREDENTIALS}, and what they allow"
        )
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return StoreUnreachableError(f"{place}: the bucket lies in another region ({code}); set AWS_REGION to its own")
    if status == 501:
        return StoreUnreachableError(
            f"{place}: {endpoint} lacks a part of S3 that the stores need ({code}): "
            "conditional PUT (If-None-Match: *); use a server that has it"
        )
    if status in _EXPECTED:
        return S3Refusal(f"{place}: {_EXPECTED[status]} ({code})", status)
    return StoreUnreachableError(f"{place}: {endpoint} answers {status} {code}; check the path and the server")


def _answer(error: boto.ClientError) -> tuple[int, str]:
    """HTTP status and code of an answer."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, str(error.response.get("Error", {}).get("Code", "without a code"))
