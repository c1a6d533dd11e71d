"""Help texts are paragraphs, wherever the source breaks its lines."""

from dataclasses import dataclass, field
from typing import Annotated, get_args, get_type_hints

import tyro

from nca_fast.commands.help import join_help


@dataclass(frozen=True)
class Base:
    number: int = 3
    """What is said in a line that ends before
    TF32 and goes on
    4 times."""


@dataclass(frozen=True)
class Inner:
    size: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Two
    Lines."""


@dataclass(frozen=True)
class Options(Base):
    inner: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    silent: bool = False


def test_lines_are_joined(capsys):
    join_help(Options)
    try:
        tyro.cli(Options, args=["--help"], prog="x", config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "before TF32 and goes on 4 times. (default: 3)" in shown and "--size SIZE" in shown and "Two Lines." in shown
    number = get_type_hints(Options, include_extras=True)["number"]
    assert (
        get_args(number)[0] is int
        and get_args(number)[1].help == "What is said in a line that ends before TF32 and goes on 4 times."
    )
    parsed = tyro.cli(Options, args=["--number", "5", "--size", "a"], config=(tyro.conf.OmitArgPrefixes,))
    assert parsed == Options(5, Inner("a"))


def test_what_has_no_source_is_left_alone():
    made = dataclass(type("Made", (), {"__annotations__": {"x": int}, "x": 1}))
    join_help(made)
    assert made.__annotations__ == {"x": int}
