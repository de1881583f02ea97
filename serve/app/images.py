"""Screenshots in requests: data URIs only. Nothing is ever fetched, so a request cannot make the server call anyone.

Size, format, pixels and sides are looked at in the header, before anything is decoded: a small file can hold a picture
of gigabytes.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from serve.app.errors import ApiError
from serve.app.settings import Limits

_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF", "image/bmp": "BMP"}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_image(uri: str, limits: Limits, param: str) -> bytes:
    """The encoded picture in a data URI, within the limits.

    Raises:
        ApiError: 400 if it is not a base64 data URI of a known format or its header is broken, 413 if it is too large.
    """
    head, comma, _ = uri[:64].partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise ApiError(400, f"{param}: an image must be a data URI (data:image/png;base64,...)", param=param)
    kind, _, encoding = head[len("data:") :].lower().partition(";")
    if kind not in _FORMATS or encoding.strip() != "base64":
        raise ApiError(400, f"{param}: an image must be base64 of {', '.join(_FORMATS)}", param=param)
    if (len(uri) - len(head)) * 3 // 4 > limits.image_bytes + 3:
        raise ApiError(413, f"{param}: an image may have {limits.image_bytes} bytes at the most", param=param)
    try:
        data = base64.b64decode(uri[len(head) + 1 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param}: the image is not valid base64", param=param) from error
    if len(data) > limits.image_bytes:
        raise ApiError(413, f"{param}: an image may have {limits.image_bytes} bytes at the most", param=param)
    _check_header(data, limits, param)
    return data


def _check_header(data: bytes, limits: Limits, param: str) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_FORMATS.values())) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ApiError(413, f"{param}: the image has more than {limits.image_pixels} pixels", param=param) from error
    except (UnidentifiedImageError, *_BROKEN) as error:
        raise ApiError(400, f"{param}: this is no whole image of a known format", param=param) from error
    if width * height > limits.image_pixels:
        raise ApiError(
            413, f"{param}: {width} x {height} pixels are over the limit of {limits.image_pixels}", param=param
        )
    if max(width, height) > limits.image_side:
        raise ApiError(413, f"{param}: {width} x {height}: no side may be over {limits.image_side} pixels", param=param)
