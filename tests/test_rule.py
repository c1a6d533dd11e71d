"""The rule: derived sizes, round trip, errors."""

import json

import pytest

from nca_fast import Filter, Rule


def test_sizes():
    rule = Rule(channels=18, hidden=(90, 80), frozen=3, output_bias=True, maximum_window=3)
    assert rule.inputs == 18 * 5
    assert rule.written == 15
    assert rule.layers == ((90, 90, True), (80, 90, True), (15, 80, True))
    assert Rule(hidden_bias=False).layers == ((96, 48, False), (12, 96, False))


def test_reach_is_what_a_step_depends_on():
    assert Rule().reach == 1
    assert Rule(filters=("identity", "sobel_x9")).reach == 4
    assert Rule(filters=("identity",)).reach == 1  # the identity is given as a 3x3 stencil
    assert Rule(alive_channel=3).reach == 2


@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(filters=("identity", "sobel_x/8", ((0.1, 0.2, 0.3),) * 3, Filter("mine", ((2.0,),), 0.5)), fire_rate=1),
        Rule(channels=16, hidden=(128, 64, 32), padding="zero", frozen=2, alive_channel=3, maximum_window=5),
    ],
)
def test_json_round_trip(rule):
    again = Rule.from_json(rule.to_json())
    assert again == rule
    assert hash(again) == hash(rule)


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"channels": 0}, ValueError, "channels must be an integer of at least 1, but got 0"),
        ({"channels": 1.5}, TypeError, "channels must be an integer of at least 1, but got 1.5"),
        ({"hidden": 96}, TypeError, r"hidden must be a tuple of widths such as \(96,\)"),
        ({"hidden": ()}, ValueError, "hidden must hold at least one"),
        ({"hidden": (0,)}, ValueError, "each width in hidden must be"),
        ({"filters": "sobel_x"}, TypeError, "tuple of filters, but got the single string"),
        ({"filters": ()}, ValueError, "at least one filter"),
        ({"fire_rate": 1.5}, ValueError, r"fire_rate must be in \[0, 1\], but got 1.5"),
        ({"fire_rate": float("nan")}, ValueError, "fire_rate must be in"),
        ({"fire_rate": "half"}, TypeError, "fire_rate must be a number"),
        ({"padding": "reflect"}, ValueError, "padding must be one of"),
        ({"frozen": 12}, ValueError, "frozen must be an integer from 0 to 11, but got 12"),
        ({"maximum_window": 4}, ValueError, "maximum_window must be odd"),
        ({"alive_channel": 12}, ValueError, "alive_channel must be an integer from 0 to 11"),
    ],
)
def test_bad_rules(fields, error, message):
    with pytest.raises(error, match=message):
        Rule(**fields)


def test_bad_json():
    with pytest.raises(ValueError, match="a rule must be JSON"):
        Rule.from_json("{")
    with pytest.raises(ValueError, match="a rule must have the fields"):
        Rule.from_json("[]")
    missing = json.loads(Rule().to_json())
    del missing["padding"]
    with pytest.raises(ValueError, match="a rule must have the fields"):
        Rule.from_json(json.dumps(missing))
