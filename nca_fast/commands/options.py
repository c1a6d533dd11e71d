"""The options of a command, read from the fields of its dataclass: what tyro takes, as facts."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

_POSITIONAL, _ONE_WAY = get_args(tyro.conf.Positional[int])[1], tyro.conf.FlagCreatePairsOff
_VALUES = {int: "INT", float: "NUMBER"}


@dataclass(frozen=True)
class Option:
    """An option, or a word without one.

    Args:
        name: Of the field.
        flags: How it is typed, such as ("--image-size",); none for a word that stands by itself.
        value: What follows it, "INT"; nothing for a flag.
        required: Whether it must be given.
        default: What it is when it is not given.
        text: What it does, a paragraph.
        group: What it has to do with, a line: that of the dataclass which has it first.
    """

    name: str
    flags: tuple[str, ...]
    value: str
    required: bool
    default: Any
    text: str
    group: str

    @property
    def choices(self) -> list[str]:
        """Among what it chooses; nothing where anything may be typed."""
        return self.value[1:-1].split(",") if re.fullmatch(r"{[^{}]*}", self.value) else []


def options(command: type, own: str = "") -> list[Option]:
    """Lists the options of a command, a dataclass, and of the dataclasses among its fields.

    Args:
        command: The dataclass.
        own: The group of what it has from no other dataclass.
    """
    found = []
    hints, texts, groups = get_type_hints(command, include_extras=True), _texts(command), _groups(command, own)
    for field in fields(command):
        kind, about = _unwrapped(hints[field.name])
        said = next((note for note in about if type(note).__name__ == "_ArgConfig"), None)
        if is_dataclass(kind):
            found += options(kind, _title(kind))
            continue
        positional, one_way = _POSITIONAL in about, _ONE_WAY in about
        dashed = field.name.replace("_", "-")
        flags = () if positional else (f"--{dashed}",)
        if kind is bool and not one_way:
            flags += (f"--no-{dashed}",)
        value = (said and said.metavar) or ("" if kind is bool else _value(kind))
        if positional and value in ("TEXT", "PATH"):
            value = field.name.upper()
        text = " ".join((said and said.help or texts.get(field.name, "")).split())
        hint = said and said.help_behavior_hint
        text += f" {hint}" if isinstance(hint, str) else ""
        default = _default(field)
        found.append(Option(field.name, flags, value, default is MISSING, default, text, groups[field.name]))
    return found


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """Takes the type, and what is said about it, out of annotations."""
    about = []
    while get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        about += notes
    return hint, about


def _value(kind: Any) -> str:
    """What is to be typed for a type: INT, {a,b}, TEXT [TEXT ...]."""
    if get_origin(kind) in (Union, UnionType):
        return "|".join(_value(one) for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    if get_origin(kind) is tuple:
        one = _value(get_args(kind)[0])
        return f"{one} [{one} ...]"
    return _VALUES.get(kind, "PATH" if getattr(kind, "__name__", "") == "Path" else "TEXT")


def _lineage(cls: type) -> Iterator[type]:
    """A dataclass and its bases, the oldest first."""
    return (base for base in reversed(cls.__mro__) if is_dataclass(base))


def _texts(cls: type) -> dict[str, str]:
    found = {}
    for base in _lineage(cls):
        found |= _field_strings(base)
    return found


def _groups(cls: type, own: str) -> dict[str, str]:
    """For each field the title of the oldest dataclass that has it."""
    found = {}
    for base in _lineage(cls):
        for name in base.__dict__["__dataclass_fields__"]:
            found.setdefault(name, own if base is cls else _title(base))
    return found


def _title(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__).splitlines()[0].rstrip(".")


@cache
def _field_strings(cls: type) -> dict[str, str]:
    """Reads the string that stands below each field in the source of a class; none where there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found = {}
    for field, below in zip(getattr(tree, "body", ()), getattr(tree, "body", ())[1:], strict=False):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            found[field.target.id] = text.value
    return found
