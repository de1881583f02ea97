"""What is wrong with a configuration, in one line: pydantic's errors in the words of the person who wrote the file.

The first error is explained and the others are counted. An unknown key is answered with the nearest one: among its
siblings if one is close, otherwise among the keys of the whole tree.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_SHOWN = 80


def explain(error: ValidationError, model_type: type[BaseModel], file: Path | None, overrides: Sequence[str]) -> str:
    """One line for ``error``, unknown keys first.

    Args:
        error: What validation of ``model_type`` raised.
        model_type: The configuration's model.
        file: The file that was read, to be named; ``None`` if there was none.
        overrides: Dotted keys that were overridden on the command line.
    """
    items = error.errors(include_url=False)
    items.sort(key=lambda item: not _is_unknown(item, model_type, overrides))
    first = items[0]
    key, override = dotted(first["loc"]), _override_of(first, overrides)
    if _is_unknown(first, model_type, overrides):
        key = max(key, override or "", key=len)
        line = f"unknown key {key}; the nearest is {nearest_key(key, model_type)}"
    else:
        line = _wrong_value(key, first, model_type)
    source = "--set: " if override else f"{file}: " if file else ""
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return " ".join(f"{source}{line}{more}".split())


def dotted(location: tuple[int | str, ...]) -> str:
    """The dotted key of a location in pydantic's sense."""
    return ".".join(map(str, location))


def nearest_key(key: str, model_type: type[BaseModel]) -> str:
    """The existing dotted key that is most like ``key``."""
    *above, name = key.split(".")
    parent = _model_at(model_type, above)
    if parent is not None and (close := difflib.get_close_matches(name, parent.model_fields, n=1)):
        return ".".join([*above, close[0]])
    keys = list(dotted_keys(model_type))
    if close := difflib.get_close_matches(key, keys, n=1, cutoff=0.8):
        return close[0]
    same_name = [other for other in keys if other.rpartition(".")[2] == name]
    return (same_name or difflib.get_close_matches(key, keys, n=1, cutoff=0.0))[0]


def dotted_keys(model_type: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of ``model_type``, sections as well as what is in them."""
    for name, field in model_type.model_fields.items():
        yield prefix + name
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from dotted_keys(inner, f"{prefix}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field: of ``Section``, of ``Section | None``; ``None`` if there is none or more than one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        models = [model for part in typing.get_args(annotation) if (model := _model_in(part)) is not None]
        return models[0] if len(models) == 1 else None
    return None


def _model_at(model_type: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = model_type
    for name in path:
        field = model.model_fields.get(name) if model is not None else None
        model = _model_in(field.annotation) if field is not None else None
    return model


def _override_of(item: ErrorDetails, overrides: Sequence[str]) -> str | None:
    """The last override of the wrong key, of a key inside it, or of a key that it is inside."""
    key = f"{dotted(item['loc'])}."
    return next((o for o in reversed(overrides) if f"{o}.".startswith(key) or key.startswith(f"{o}.")), None)


def _is_unknown(item: ErrorDetails, model_type: type[BaseModel], overrides: Sequence[str]) -> bool:
    if item["type"] in ("extra_forbidden", "invalid_key"):
        return True
    # An override of a key inside something that is no section: the key does not exist.
    override = _override_of(item, overrides)
    inside = override is not None and override.startswith(f"{dotted(item['loc'])}.")
    return inside and isinstance(item["input"], Mapping) and not _takes_keys(model_type, item["loc"])


def _takes_keys(model_type: type[BaseModel], location: tuple[int | str, ...]) -> bool:
    if _model_at(model_type, [str(part) for part in location]) is not None:
        return True
    *above, name = map(str, location)
    parent = _model_at(model_type, above)
    field = parent.model_fields.get(name) if parent is not None else None
    return field is not None and typing.get_origin(field.annotation) is dict


def _wrong_value(key: str, item: ErrorDetails, model_type: type[BaseModel]) -> str:
    if item["type"] == "missing":
        return f"{key} is required but not given"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    section = _model_at(model_type, [str(part) for part in item["loc"]])
    if item["type"] == "model_type" and section is not None:
        message = f"Input should be a section with the keys {', '.join(section.model_fields)}"
    given = repr(item["input"])
    if isinstance(item["input"], Mapping | BaseModel):
        given = "a section"
    elif len(given) > _SHOWN:
        given = given[: _SHOWN - 3] + "..."
    if message.startswith("Input should be"):
        return f"{key} is {given} but should be{message.removeprefix('Input should be')}"
    if given == "a section":
        return f"{key}: {message}" if key else message
    return f"{key} is {given}: {message}"
