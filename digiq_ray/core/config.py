"""Typed configuration: a YAML file and ``--set a.b=value`` overrides become one frozen, validated model.

A key that no model has is an error that names the nearest key, a value of the wrong kind is an error that says what
was given and what is expected, and both are one line: nothing misspelt is ever ignored. Sections are pydantic models
derived from ``Section``; this module knows none of them. YAML is read with the safe loader only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from digiq_ray.core.config_messages import dotted, explain
from digiq_ray.core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are frozen and finite, defaults are checked.

    A section that is written without any key (``learner:``) has its defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        return {} if data is None else data


class Difference(NamedTuple):
    """One key whose values differ between two configurations."""

    key: str
    left: Any
    right: Any


def load_config(model_type: type[Model], file: Path | None, overrides: Sequence[str] = ()) -> Model:
    """The configuration in ``file`` (or the defaults), with ``overrides`` of the form ``a.b=value`` applied in order.

    The value of an override is a YAML scalar or list; what a text field takes need not be quoted.

    Raises:
        ConfigError: the file cannot be read, an override has another form, or a key or a value is wrong.
    """
    data = _read_file(file) if file is not None else {}
    texts: dict[str, str] = {}
    for override in overrides:
        key, text, value = _parse_override(override)
        _assign(data, key, value)
        texts[key] = text
    try:
        return model_type.model_validate(data)
    except ValidationError as error:
        as_text = [key for key in map(dotted, _text_errors(error)) if key in texts]
    for key in as_text:
        _assign(data, key, texts[key])
    try:
        return model_type.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, model_type, file, tuple(texts))) from None


def dump_yaml(model: BaseModel) -> str:
    """``model`` as YAML, keys in the order of the fields; ``load_config`` of it gives an equal model."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def config_hash(model: BaseModel) -> str:
    """32 hexadecimal digits that depend on keys and values only: not on the order of keys, nor on the process."""
    canonical = json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def differences(left: BaseModel | Mapping[str, Any], right: BaseModel | Mapping[str, Any]) -> list[Difference]:
    """The dotted keys whose values differ, sorted. A key that one side lacks has the value ``None`` there.

    Args:
        left, right: Models, or nested dictionaries of what JSON knows.
    """
    return sorted(_differences("", _plain(left), _plain(right)))


def _plain(values: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return values.model_dump(mode="json") if isinstance(values, BaseModel) else dict(values)


def _differences(key: str, left: Any, right: Any) -> list[Difference]:
    if not (isinstance(left, dict) and isinstance(right, dict)):
        return [] if left == right and type(left) is type(right) else [Difference(key, left, right)]
    found = []
    for name in {**left, **right}:
        found += _differences(f"{key}.{name}" if key else str(name), left.get(name), right.get(name))
    return found


def _read_file(file: Path) -> dict[Any, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ConfigError(f"the configuration file {file} {reason}; check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: this is not YAML: {_yaml_problem(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "one value"
        raise ConfigError(f"{file}, line 1: expected keys with values (key: value), not {kind}")
    return data


_OVERRIDE = re.compile(r"\s*([^\s=.]+(?:\.[^\s=.]+)*)\s*=(.*)", re.DOTALL)


def _parse_override(override: str) -> tuple[str, str, Any]:
    """The dotted key of ``a.b=value``, the text of the value, and the value."""
    match = _OVERRIDE.fullmatch(override)
    shown = " ".join(override.split())
    if match is None:
        raise ConfigError(f"--set {shown}: the form is --set section.key=value")
    key, text = match[1], match[2].strip()
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {shown}: the value is not YAML ({_yaml_problem(error)}); quote it") from error
    if isinstance(value, Mapping):
        raise ConfigError(f"--set {shown}: the value reads as a mapping; quote it, or set one key at a time")
    return key, text, value


def _assign(data: dict[Any, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = data.get(section)
        # A copy, because a YAML alias may share the section with another key.
        data[section] = dict(inner) if isinstance(inner, dict) else {}
        data = data[section]
    data[name] = value


def _text_errors(error: ValidationError) -> list[tuple[int | str, ...]]:
    return [item["loc"] for item in error.errors() if item["type"] in ("string_type", "path_type")]


def _yaml_problem(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())
