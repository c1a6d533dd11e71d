"""JSON from files: what fits its field comes through, and every way not to fit has a sentence that names it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from nca_fast.fields import as_dataclass, field, parsed, parsed_object, typed
from nca_fast.systems import TASKS


@dataclass(frozen=True)
class Inner:
    share: float


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] | None = None
    kind: Annotated[Literal["a", "b"], "note"] = "a"
    where: Path | None = None
    on: bool = False

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count must be at least 1, but got {self.count}.")


WHOLE = {"count": 3, "inner": {"share": 1}, "sizes": [1, 2], "pair": [1, "x"], "kind": "b", "where": "a/b", "on": True}


def test_what_fits_comes_through():
    made = as_dataclass(Outer, WHOLE, "x")
    assert made == Outer(3, Inner(1.0), (1, 2), (1, "x"), "b", Path("a/b"), True)
    assert type(made.inner.share) is float
    assert as_dataclass(Outer, {"count": 1, "inner": {"share": 0.5}}, "x", complete=False) == Outer(1, Inner(0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "'count' of x must be an integer, but is true"),
        ({"count": 1.5}, "'count' of x must be an integer, but is 1.5"),
        ({"count": 0}, "x cannot be used: count must be at least 1"),
        ({"inner": None}, "'inner' of x must be a JSON object, but is null"),
        ({"inner": {"share": float("nan")}}, "'share' of 'inner' of x must be a finite number, but is NaN"),
        ({"inner": {"share": 10**400}}, "'share' of 'inner' of x must be a finite number"),
        ({"inner": {}}, "'inner' of x must have the field 'share', but has none"),
        ({"sizes": [1, "2"]}, r"'sizes' of x\[1\] must be an integer, but is \"2\""),
        ({"sizes": 3}, "'sizes' of x must be a list, but is 3"),
        ({"pair": [1]}, "'pair' of x must be a list of 2"),
        ({"kind": "c"}, "'kind' of x must be one of a, b, but is \"c\""),
        ({"kind": []}, "'kind' of x must be one of a, b"),
        ({"where": 3}, "'where' of x must be a string, but is 3"),
        ({"on": 1}, "'on' of x must be true or false, but is 1"),
        ({"other": 1}, "x must have the fields count, .* alone, but has other"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        as_dataclass(Outer, WHOLE | change, "x")


def test_all_fields_must_be_there_unless_it_is_said():
    with pytest.raises(ValueError, match="x must have the field 'on', but has 'count'"):
        as_dataclass(Outer, {name: WHOLE[name] for name in WHOLE if name != "on"}, "x")


@pytest.mark.parametrize("text", ["", "{", b"\xcf", "NaN", "-Infinity", "1e999"])
def test_what_is_no_json_is_named(text):
    with pytest.raises(ValueError, match="x must be JSON, but is not: "):
        parsed(text, "x")


def test_too_many_digits_are_named_briefly():
    with pytest.raises(ValueError, match="^x must have integers of at most 4300 digits, but has a longer one.$"):
        parsed("9" * 5000, "x")
    with pytest.raises(ValueError, match="^x must be JSON, but is not: 9{60} is no finite number.$"):
        parsed("9" * 5000 + ".0", "x")


def test_json_that_is_nested_too_deeply():
    with pytest.raises(ValueError, match="x must be JSON, but is nested too deeply"):
        parsed("[" * 100_000, "x")
    with pytest.raises(ValueError, match="x must be a JSON object, but is \\[\\]"):
        parsed_object("[]", "x")


def test_ranges_include_their_ends():
    assert [field({"n": n}, "n", int, "x", 0, 2) for n in (0, 2)] == [0, 2]
    for n in (-1, 3):
        with pytest.raises(ValueError, match=f"'n' of x must be from 0 to 2, but is {n}"):
            field({"n": n}, "n", int, "x", 0, 2)
    with pytest.raises(ValueError, match="'n' of x must be at least 1, but is 0.5"):
        field({"n": 0.5}, "n", float, "x", 1)
    assert typed(int | None, None, "x") is None


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_settings_of_every_system_survive_a_file(task):
    for config in (task.Config(), task.Config().resolved(), *task.recipes.values()):
        assert as_dataclass(task.Config, json.loads(json.dumps(asdict(config))), "x") == config
