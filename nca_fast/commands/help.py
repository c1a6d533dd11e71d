"""The help of options: the strings below the fields of dataclasses, each as one paragraph, on terminals of any width.

tyro reads these strings by itself, but keeps some of the line breaks that the source has.
"""

import ast
import contextlib
import inspect
import os
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, get_args, get_origin

import tyro

LEAST_COLUMNS = 20  # tyro never ends in 1 to 4; a terminal breaks lines that are too long for it


@cache
def join_help(options: type) -> None:
    """Gives fields their help as one paragraph: of a dataclass, its bases and the dataclasses among its fields."""
    for cls in options.__mro__:
        own = cls.__dict__.get("__annotations__", {})
        for name, text in _field_strings(cls).items() if own and is_dataclass(cls) else ():
            own[name] = Annotated[own[name], tyro.conf.arg(help=" ".join(text.split()))]
        for kind in own.values():
            inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
            if is_dataclass(inner):
                join_help(inner)


@contextlib.contextmanager
def wide_enough() -> Iterator[None]:
    """Lets a terminal that is too narrow for help count as wider, for the length of a block."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= LEAST_COLUMNS:
        yield
        return
    os.environ["COLUMNS"] = str(LEAST_COLUMNS)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


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
