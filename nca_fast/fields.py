"""What JSON in files says: each value is checked against the type and range of its field before anything is made of it.

page = parsed_object(text, "journal wall.png.journal")
plan = as_dataclass(Plan, page["plan"], "plan of journal wall.png.journal")
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")

_PLAIN = {bool: "true or false", int: "an integer", float: "a finite number", str: "a string"}


def parsed(text: str | bytes, where: str) -> Any:
    """Reads JSON.

    Args:
        text: It.
        where: What errors call it: "the log runs/brick/log.jsonl".

    Raises:
        ValueError: It is no text or no JSON, or nested so deeply that it cannot be read.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(f"{where} must be JSON, but is nested too deeply to be read.") from None
    except ValueError as error:  # of its grammar, its bytes, or an integer of thousands of digits
        if "int_max_str_digits" in str(error):
            most = sys.get_int_max_str_digits()
            raise ValueError(f"{where} must have integers of at most {most} digits, but has a longer one.") from None
        raise ValueError(f"{where} must be JSON, but is not: {error}.") from None


def _finite(text):
    """Refuses NaN and Infinity, which Python's JSON has and JSON has not, and numbers that are as large."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:60]} is no finite number")
    return float(text)


def parsed_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Reads a JSON object; arguments and errors as `parsed`."""
    return typed(dict, parsed(text, where), where)


def field(
    values: Mapping[str, Any], name: str, kind: Any, where: str, low: float | None = None, high: float | None = None
) -> Any:
    """Takes a field out of a JSON object.

    Args:
        values: The object.
        name: Of the field.
        kind: Its type, as `typed`.
        where: What errors call the object.
        low, high: Range of a number, both ends included; None for no bound.

    Raises:
        ValueError: The field is missing, or of another type, or out of its range.
    """
    if name not in values:
        has = ", ".join(map(repr, values)) or "none"
        raise ValueError(f"{where} must have the field {name!r}, but has {has[:500]}.")
    value = typed(kind, values[name], f"{name!r} of {where}")
    if (low is not None and value < low) or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name!r} of {where} must be {bound}, but is {value}.")
    return value


def as_dataclass(cls: type[Kind], values: Any, where: str, *, complete: bool = True) -> Kind:
    """Makes a dataclass of a JSON object that has its fields.

    Args:
        cls: Its class.
        values: The object.
        where: What errors call it.
        complete: Whether fields that have a default must be there, too.

    Raises:
        ValueError: A field is unknown, missing or of another type, or the class refuses it.
    """
    values, hints = typed(dict, values, where), get_type_hints(cls)
    known = {f.name: f.default is not MISSING or f.default_factory is not MISSING for f in fields(cls)}
    unknown = sorted(values.keys() - known)
    if unknown:
        has = ", ".join(unknown)[:500]
        raise ValueError(f"{where} must have the fields {', '.join(known)} alone, but has {has}.")
    wanted = [name for name, free in known.items() if complete or not free or name in values]
    values = {name: field(values, name, hints[name], where) for name in wanted}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be used: {error}") from error


def typed(kind: Any, value: Any, name: str) -> Any:
    """Checks a JSON value against a type.

    Args:
        kind: bool, int, float, str, Path, dict, list, a dataclass, a Literal, a tuple of them, or a union.
        value: As `json.loads` gives it.
        name: What errors call it.

    Returns:
        The value; a list where the type is a tuple becomes one, a string a Path where it is one.

    Raises:
        ValueError: It has another type.
    """
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(inner, value, name)
    if origin is Literal:
        if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in inner):
            raise _wrong(name, f"one of {', '.join(map(str, inner))}", value)
        return value
    if origin is tuple:
        values = value if isinstance(value, tuple) else typed(list, value, name)
        kinds = inner[:1] * len(values) if inner[1:] == (...,) else inner
        if len(kinds) != len(values):
            raise _wrong(name, f"a list of {len(kinds)}", value)
        return tuple(typed(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(kinds, values, strict=True)))
    if is_dataclass(origin):
        return as_dataclass(origin, value, name)
    if origin is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    json_type = {Path: str}.get(origin, origin)
    if type(value) is not json_type or (origin is float and not math.isfinite(value)):
        words = _PLAIN | {Path: "a string", dict: "a JSON object", list: "a list", NoneType: "null"}
        raise _wrong(name, words[origin], value)
    return Path(value) if origin is Path else value


def _one_of(kinds, value, name):
    errors = []
    for kind in kinds:
        try:
            return typed(kind, value, name)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _wrong(name, rule, value):
    return ValueError(f"{name} must be {rule}, but is {json.dumps(value)[:60]}.")
