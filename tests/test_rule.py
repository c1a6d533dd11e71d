"""The rule: derived sizes, round trip, errors."""

import json

import pytest

from nca_fast import Filter, Rule
from nca_fast import rule as rule_module


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
    one = ((1.0,),)
    reaches = {mode: Rule(filters=(one,), alive_channel=3, alive_mask=mode).reach for mode in rule_module.ALIVE_MASKS}
    assert reaches == {"both": 1, "before": 1, "after": 1, "update": 1} and Rule(filters=(one,)).reach == 0
    assert Rule(alive_channel=3, alive_mask="before").reach == Rule(alive_channel=3, alive_mask="update").reach == 1


@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(filters=("identity", "sobel_x/8", ((0.1, 0.2, 0.3),) * 3, Filter("mine", ((2.0,),), 0.5)), fire_rate=1),
        Rule(channels=16, hidden=(128, 64, 32), padding="zero", frozen=2, alive_channel=3, maximum_window=5),
        Rule(hidden=(), padding="reflect", alive_channel=3, alive_mask="after", alive_padding="zero", fire_shared=()),
        Rule(hidden=(4, 5), activation=("leaky_relu(0.2)", "elu"), update_activation="tanh/10", residual=False),
        Rule(channels=80, clamp=(-1, 1), state_noise=0.01, update_noise=1, fire_shared=("width", "batch")),
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
        ({"hidden": (0,)}, ValueError, "each width in hidden must be"),
        ({"filters": "sobel_x"}, TypeError, "tuple of filters, but got the single string"),
        ({"filters": ()}, ValueError, "at least one filter"),
        ({"fire_rate": 1.5}, ValueError, r"fire_rate must be in \[0, 1\], but got 1.5"),
        ({"fire_rate": float("nan")}, ValueError, "fire_rate must be in"),
        ({"fire_rate": "half"}, TypeError, "fire_rate must be a number"),
        ({"padding": "mirror"}, ValueError, "padding must be one of"),
        ({"frozen": 12}, ValueError, "frozen must be an integer from 0 to 11, but got 12"),
        ({"maximum_window": 4}, ValueError, "maximum_window must be odd"),
        ({"alive_channel": 12}, ValueError, "alive_channel must be an integer from 0 to 11"),
        ({"alive_mask": "always"}, ValueError, "alive_mask must be one of"),
        ({"alive_padding": "circular"}, ValueError, "alive_padding must be 'zero' or None"),
        ({"fire_shared": "channel"}, TypeError, "fire_shared must be a tuple of some of"),
        ({"fire_shared": ("row",)}, ValueError, "fire_shared must be a tuple of some of .*each once"),
        ({"fire_shared": ("batch", "batch")}, ValueError, "fire_shared must be a tuple of some of .*each once"),
        ({"activation": "softmax"}, ValueError, "activation must be one of identity, relu"),
        ({"activation": ("relu", "relu")}, ValueError, "activation must be one for all hidden layers or a tuple of 1"),
        ({"activation": None}, TypeError, "an activation must be a text"),
        ({"activation": "relu(2)"}, ValueError, "alone take a parameter"),
        ({"activation": "leaky_relu(x)"}, ValueError, "the parameter of an activation must be"),
        ({"update_activation": "tanh/0"}, ValueError, "the divisor of an activation must be"),
        ({"hidden": (), "activation": "softmax"}, ValueError, "activation must be one of"),
        ({"residual": 1}, TypeError, "residual must be True or False"),
        ({"clamp": 1}, TypeError, r"clamp must be \(low, high\)"),
        ({"clamp": (0.1, 1)}, ValueError, "with low at most 0 and high at least 0"),
        ({"clamp": (None, None)}, ValueError, "with low at most 0 and high at least 0"),
        ({"clamp": (float("-inf"), 1)}, ValueError, "finite"),
        ({"clamp": (0, 0.1), "alive_channel": 3}, ValueError, "clamp must hold the alive threshold 0.1"),
        ({"clamp": (-1, 1), "alive_channel": 3, "alive_threshold": -2}, ValueError, "clamp must hold the alive thres"),
        ({"alive_mask": "after"}, ValueError, "alive_mask must go with an alive_channel, but got 'after' and none"),
        ({"alive_padding": "zero"}, ValueError, "alive_padding must go with an alive_channel"),
        ({"alive_threshold": 0.2}, ValueError, "alive_threshold must go with an alive_channel"),
        ({"hidden": (), "activation": "gelu"}, ValueError, "activation must go with hidden layers, but got 'gelu'"),
        ({"state_noise": -0.1}, ValueError, "state_noise must be finite and at least 0"),
        ({"update_noise": float("nan")}, ValueError, "update_noise must be finite and at least 0"),
    ],
)
def test_bad_rules(fields, error, message):
    with pytest.raises(error, match=message):
        Rule(**fields)


def test_bad_json():
    with pytest.raises(ValueError, match="a rule must be JSON"):
        Rule.from_json("{")
    with pytest.raises(ValueError, match="a rule must have some of the fields"):
        Rule.from_json("[]")
    with pytest.raises(ValueError, match="a rule must have some of the fields .*but got .*'colour'"):
        Rule.from_json('{"colour": 1}')
    for field, value in (("clamp", [1]), ("activation", 3), ("residual", 0), ("alive_mask", True)):
        with pytest.raises(ValueError, match=f"'{field}' of a rule must be"):
            Rule.from_json(json.dumps({field: value}))


def test_files_of_before_a_field_was_there_have_its_default():
    rule = Rule(channels=16, padding="zero", alive_channel=3)
    values = json.loads(rule.to_json())
    first = list(values)[: list(values).index("alive_mask")]
    assert len(first) == 11 and Rule.from_json(json.dumps({name: values[name] for name in first})) == rule
