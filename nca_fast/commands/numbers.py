"""Numbers on the command line, and the sentence about what is none: tyro's names Python's types."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_WORDS = {int: "an integer such as 1000", float: "a number such as 0.5"}


def numbers() -> ConstructorRegistry:
    """Makes the context in which tyro reads integers and numbers, alone or in a row, and those that may be None."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_rule)
    return registry


def check_positive(command: Any, *names: str) -> None:
    """Raises ValueError for a field of a command that is below 1; None is not."""
    for name in names:
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}.")


def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    kinds = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else (info.type,)
    kind, *others = [kind for kind in kinds if kind is not NoneType] or [None]
    optional = NoneType in kinds
    row = get_origin(kind) is tuple and get_args(kind)[1:] == (...,)
    kind = get_args(kind)[0] if row else kind
    if kind not in _WORDS or others:
        return None

    def number(word: str) -> Any:
        try:
            return kind(word)
        except ValueError:
            raise ValueError(f"it must be {_WORDS[kind]}{', or None' * optional}, but is {word!r}.") from None

    def read(words: list[str]) -> Any:
        if optional and words == ["None"]:
            return None
        return tuple(map(number, words)) if row else number(words[0])

    def fits(value: Any) -> bool:
        values = value if row and isinstance(value, tuple) else (value,)
        return value is None if optional and value is None else all(type(v) in (kind, int) for v in values)

    name = kind.__name__.upper()
    return PrimitiveConstructorSpec(
        nargs="*" if row else 1,
        metavar=f"{'{None}|' * optional}{f'[{name} [{name} ...]]' if row else name}",
        instance_from_str=read,
        is_instance=fits,
        str_from_instance=lambda value: [str(v) for v in (value if isinstance(value, tuple) else (value,))],
    )
