"""After how many steps an automaton's picture is there: all who ask a file get the same answer, of nonsense too."""

import json

import pytest

from nca_fast import NCA, Rule, cli
from nca_fast.rendering.apply import steps_of
from nca_fast.rendering.size import STEPS, sensible_size, shown_steps
from nca_fast.web import models

SETTINGS = {"picture_steps": 9, "steps_max": 10}


@pytest.mark.parametrize(
    ("made", "steps"),
    [
        ({"shown_steps": 7, "steps": 8, "config": SETTINGS}, 7),
        ({"steps": 8, "config": SETTINGS}, 8),
        ({"config": SETTINGS}, 9),
        ({"config": {"steps_max": 10}}, 10),
        ({"shown_steps": 0, "steps": -1, "config": SETTINGS}, 9),
        ({"shown_steps": "7", "steps": True, "config": SETTINGS}, 9),
        ({"shown_steps": 65537, "steps": 7.5, "config": {"picture_steps": [9], "steps_max": 10}}, 10),
        ({"shown_steps": None}, None),
        ({}, None),
    ],
)
def test_all_readers_agree(tmp_path, made, steps):
    nca = NCA(Rule(channels=4, hidden=(4,)))
    folder = tmp_path / "model"
    file = nca.save_pretrained(folder, made)
    assert shown_steps(made) == steps
    assert sensible_size(made).steps == (steps or STEPS)
    assert models.steps_of(file) == (steps or models.UNSAID)
    assert cli.main(["export", str(folder), "--to", "json", "--out", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["shown_steps"] == (steps or models.UNSAID)
    if steps is None:
        with pytest.raises(ValueError, match="steps must be given, because .* does not say how many"):
            steps_of(folder)
    else:
        assert steps_of(folder) == steps


@pytest.mark.parametrize("made", [{"config": []}, {"config": "x"}])
def test_settings_that_are_none(made):
    assert shown_steps(made | {"steps": 3}) == 3 and shown_steps(made) is None
