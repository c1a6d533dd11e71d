"""Replays of the page: read or refused, and the same bits however the canvas is cut."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nca_fast import NCA, Rule
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.events import Events, weights_sum
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.replay import Stroke, read_replay
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.strokes import Place, meets, reaches, touched
from nca_fast.cli import main

STROKES = [
    ["paint", 0, 3, 4, 3, 9, 4, 0.5, 1],
    ["noise", 0, 9, 2, 9, 2, 3, 0.5, 0],
    ["erase", 2, 11, 5, 13, 15, 3, 0.5, 0],
    ["turn", 3, 75, "dipole", 1.25],
    ["noise", 3, -1, 14, -1, 14, 3, 0.5, 0],
    ["speed", 4, 6, 6, 6, 6, 5, 0.5, 0.125],
    ["paint", 5, 8, 9, 8, 12, 3, 0.5, 0],
    ["turn", 6, 0, "cartesian", 1],
    ["erase", 7, 6, 6, 6, 6, 2, 0, 0],
]


def page(*models, **fields):
    """A replay of models, as text."""
    replay = {"nca_fast": 1, "models": [str(n) for n in range(len(models))], "weights": list(map(weights_sum, models))}
    replay |= {"height": 12, "width": 16, "seed": "7", "padding": "circular", "layout": "mosaic", "steps": 7}
    return json.dumps(replay | {"strokes": STROKES} | fields)


@pytest.fixture(scope="module")
def ncas():
    torch.manual_seed(3)
    return [NCA(Rule(channels=5, hidden=(8,)), init_gain=0.5) for _ in range(2)]


@pytest.fixture
def replay(ncas, tmp_path):
    (tmp_path / "replay.json").write_text(page(*ncas))
    return read_replay(tmp_path / "replay.json")


def scene(replay, ncas, height=12, width=16, steps=7, **config):
    events = Events(replay, ncas, height, width)
    how = {"backend": "reference", "config": CanvasConfig(**config), "events": events}
    return Scene(events.ncas[0], height, width, steps, replay.seed, **how)


def whole(*of, **how):
    with Canvas(scene(*of, **how)) as canvas:
        canvas.go()
        return canvas.state().clone()


@pytest.mark.parametrize("plan", [Plan(5, 3, 3, False, False), Plan(4, 1, 1, True, False), Plan(12, 2, 0, True, True)])
def test_strips_have_the_bits_of_the_whole(replay, ncas, tmp_path, plan):
    with Canvas(scene(replay, ncas), path=tmp_path / "a.png", plan=plan) as canvas:
        canvas.go()
        assert torch.equal(canvas.state(), whole(replay, ncas))


@pytest.mark.parametrize("tool", ["erase", "noise", "plant", "paint", "speed"])
@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_what_a_stroke_misses_is_left_alone(tool, padding, tmp_path):
    """A small stroke, and one that lies off the canvas where nothing lies beyond its edges: strips, and bands."""
    torch.manual_seed(4)
    rule = Rule(channels=5, hidden=(8,), padding=padding, alive_channel=3 if tool == "plant" else None)
    ncas, plan = [NCA(rule, init_gain=0.5) for _ in range(2)], Plan(4, 1, 2 if tool == "plant" else 1, True, False)
    value = int(tool == "paint")
    here, off = ([tool, 1, row, 3, row, 5, 1.2, 0.5, value] for row in (5, -9))
    states = []
    for number, strokes in enumerate([[], [off], [off, here]]):
        path = tmp_path / f"{number}.json"
        path.write_text(page(*ncas, padding=padding, steps=3, layout=0, strokes=strokes))
        replay = read_replay(path)
        states.append(whole(replay, ncas, steps=3))
        with Canvas(scene(replay, ncas, steps=3), path=path.with_suffix(".png"), plan=plan) as cut:
            cut.go()
            assert torch.equal(cut.state(), states[-1])
        events, x, every = Events(replay, ncas, 12, 16), torch.ones(5, 12, 16), torch.arange(12)
        shares, speeds, touched = events.shares(every, 1).clone(), events.speeds(every, 1), x.clone()
        events.touch(touched, every, 1)
        for rows in torch.roll(every, 2).split([5, 3, 4]):
            part = x[:, rows]
            events.touch(part, rows, 1)
            assert torch.equal(part, touched[:, rows]) and torch.equal(events.shares(rows, 1), shares[:, rows])
            assert speeds is None or torch.equal(events.speeds(rows, 1), speeds[rows])
    assert torch.equal(states[0], states[1]) == (padding == "zero" and tool != "plant")
    assert not torch.equal(states[1], states[2])


def test_a_run_goes_on_with_its_own_replay_alone(replay, ncas, tmp_path):
    path, plan = tmp_path / "a.png", Plan(5, 3, 3, False, False)
    with pytest.raises(KeyboardInterrupt), Canvas(scene(replay, ncas), path=path, plan=plan, resume=False) as canvas:
        canvas.go(4)
        raise KeyboardInterrupt
    (tmp_path / "other.json").write_text(page(*ncas, strokes=STROKES[1:]))
    with pytest.raises(ValueError, match="replay"):
        Canvas(scene(read_replay(tmp_path / "other.json"), ncas), path=path, resume=True)
    with Canvas(scene(replay, ncas), path=path, resume=True) as canvas:
        canvas.go()
        assert torch.equal(canvas.state(), whole(replay, ncas))


def test_each_stroke_does_something(replay, ncas, tmp_path):
    right = whole(replay, ncas)
    for missing in range(len(STROKES)):
        (tmp_path / "fewer.json").write_text(page(*ncas, strokes=STROKES[:missing] + STROKES[missing + 1 :]))
        assert (whole(read_replay(tmp_path / "fewer.json"), ncas) - right).abs().max() > 1e-3, STROKES[missing]


def test_strokes_grow_with_the_canvas(replay):
    """Each cell of the old canvas lies in the middle of nine of the new one; all but float32's rounding is the same."""
    new = replay.on(36, 48)
    for old, grown in zip(replay.events, new.events, strict=True):
        if isinstance(old, Stroke):
            weights = [weights_of(stroke, *size) for stroke, size in ((old, (12, 16)), (grown, (36, 48)))]
            assert weights[0].max() > 0 and (weights[1][1::3, 1::3] - weights[0]).abs().max() < 1e-6
        else:
            assert grown == old
    everything = Stroke("paint", 0, (6.0, 8.0), (6.0, 8.0), 28.0, 0.0, 1.0)
    (reaching,) = replay.__class__(**vars(replay) | {"events": (everything,)}).on(12, 4096).events
    assert (weights_of(reaching, 12, 4096) == 1).all()


@pytest.mark.parametrize("torus", [True, False])
@pytest.mark.parametrize("hexagons", [True, False])
def test_strokes_that_meet_no_row_are_known_before_they_are_drawn(torus, hexagons):
    place, counts = Place(48, 8, torus, 0, hexagons), [0, 0]
    strokes = [Stroke("erase", 0, (row / 2, 2.0), (row / 2 + row % 5, 3.0), 1.5, 0.5, 1.0) for row in range(-20, 120)]
    for begin in range(0, 48, 6):
        rows = (begin - 3 + torch.arange(9)) % 48
        for stroke, met in zip(strokes, meets(reaches(strokes, place), rows, place).tolist(), strict=True):
            changes = any((weights > 0).any() for _, _, weights in touched(stroke, rows, place))
            assert met or not changes, (stroke, rows)
            counts = [counts[0] + changes, counts[1] + (not met)]
    assert min(counts) > 200


def test_rows_of_hexagons_alone_have_the_weights_of_all():
    """Columns lean there: in each row others are touched."""
    stroke, place = Stroke("erase", 0, (2.0, 15.0), (30.0, 1.0), 2.5, 0.5, 1.0), Place(32, 24, True, 0, hexagons=True)
    found = [torch.zeros(32, 24) for _ in range(2)]
    for parts, weights in zip(([32], [1] * 32), found, strict=True):
        for part in torch.arange(32).split(parts):
            for rows, columns, values in touched(stroke, part, place):
                weights[part[rows], columns] = values
    assert torch.equal(*found) and (found[0].amax(1) > 0).sum() == 32


def weights_of(stroke, height, width):
    found = torch.zeros(height, width)
    for rows, columns, weights in touched(stroke, torch.arange(height), Place(height, width, True, 0)):
        found[rows, columns] = weights
    return found


def test_render_finds_models_goes_on_and_films(replay, ncas, tmp_path, capsys, monkeypatch):
    """Models in any order, by their weights; a film ends where the picture is; more steps are those that follow. The
    replay, which may have a million strokes, is read once."""
    reads = []
    monkeypatch.setattr("nca_fast.commands.render.read_replay", lambda path: reads.append(path) or read_replay(path))
    for number, nca in enumerate(ncas):
        nca.save_pretrained(tmp_path / str(number))
    words = ["render", str(tmp_path / "1"), "--graft", str(tmp_path / "0"), "--replay", str(tmp_path / "replay.json")]
    words += ["--backend", "reference", "--save-state", str(tmp_path / "a.safetensors")]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 0
    assert torch.equal(load_file(tmp_path / "a.safetensors")["state"], whole(replay, ncas)[0])
    assert main([*words, "--out", str(tmp_path / "a.gif"), "--steps", "9", "--height", "24"]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path / 'replay.json'} --backend reference --steps 9 --height 48 --width 48 --out large" in said.out
    assert torch.equal(load_file(tmp_path / "a.safetensors")["state"], whole(replay, ncas, 24, 24, 9)[0])
    assert reads == [tmp_path / "replay.json"] * 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nca_fast": 2}, "must say nca_fast: 1, the version of the format that is read here, but says 2"),
        ({"weights": []}, "must name models and the weights of each, but has 2 and 0"),
        ({"models": [3, 4]}, "'models' of the replay"),
        ({"height": 0}, "'height' of the replay"),
        ({"seed": "-1"}, "must be decimal digits of a number below 2^64, but is '-1'"),
        ({"padding": "none"}, "'padding' of the replay"),
        ({"grid": "triangles"}, "'grid' of the replay"),
        ({"layout": "stripes"}, '(which may also be "mosaic")'),
        ({"layout": 2}, "must paint with the 2 textures that there are, but has 2"),
        ({"steps": 6}, "stroke 8 of the replay"),
        ({"steps": 0, "strokes": [["erase", 0]]}, "must be a list of 7"),
        ({"strokes": [STROKES[2], STROKES[0]]}, "must come at a step from 2, that of the one before, to 7"),
        ({"strokes": [["burn", *STROKES[0][1:]]]}, "the tool of stroke 0 of the replay"),
        ({"strokes": [[]]}, "must be a list of a tool, a step and what it does, but is []"),
        ({"strokes": ["erase"]}, 'r.json must be a list, but is "erase"'),
        ({"strokes": [None]}, "r.json must be a list, but is null"),
        ({"strokes": [{}]}, "r.json must be a list, but is {}"),
        ({"strokes": [7]}, "r.json must be a list, but is 7"),
        ({"strokes": [[["erase"], *STROKES[0][1:]]]}, "the tool of stroke 0 of the replay"),
        ({"strokes": [["erase", True, 0, 0, 0, 0, 3, 0.5, 0]]}, "the step of stroke 0 of the replay"),
        ({"strokes": [["erase", 1, 0, 0, 0, 0, 3, 0.5, False]]}, "stroke 0 of the replay"),
        ({"strokes": [["erase", 1, 0, 0, 0, "0", 3, 0.5, 0]]}, "must be a finite number, but is"),
        ({"strokes": [["erase", 1, 0, 0, 0, -(2**24) - 1, 3, 0.5, 0]]}, "must have places within 16777216 cells"),
        ({"strokes": [["erase", 1, 0, 0, 0, 10**400, 3, 0.5, 0]]}, "must be a finite number, but is 1000"),
        ({"strokes": [["turn", 1, 30, "spiral", 1]]}, "must be one of cartesian, polar, dipole"),
        ({"strokes": [["turn", 1, 400, "polar", 1]]}, "must turn by 0 to 360 degrees"),
        ({"strokes": [["erase", 1, 0, 0, 0, 0, 0, 0.5, 0]]}, "a radius above 0"),
        ({"strokes": [["paint", 1, 0, 0, 0, 0, 3, 0.5, 0.5]]}, "must paint with the number of a texture"),
        ({"strokes": [["speed", 1, 0, 0, 0, 0, 3, 0.5, 3]]}, "by a number from 0 to 2"),
        ({"strokes": [["plant", 1, 0, 0, 0, 0, 3, 0.5, 0]]}, "has no alive channel"),
        ({"weights": ["00000000"] * 2}, "needs the model '0' whose weights have the checksum 00000000, but those of"),
        ({"models": ["a", "b"], "weights": ["00000000"] * 2}, "needs the model 'a', which was not given"),
        ({"models": ["a" * 10**5, "b"], "weights": ["0"] * 2}, f"needs the model '{'a' * 60}', which was not given"),
        ({"weights": ["0" * 10**5] * 2}, f"have the checksum {'0' * 60}, but those of"),
    ],
)
def test_what_is_no_replay_is_refused(fields, said, ncas, tmp_path, capsys):
    for number, nca in enumerate(ncas):
        nca.save_pretrained(tmp_path / str(number))
    (tmp_path / "r.json").write_text(page(*ncas, **fields))
    words = ["render", str(tmp_path / "0"), "--graft", str(tmp_path / "1"), "--replay", str(tmp_path / "r.json")]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 1000 and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--replay nowhere.json", "error: the replay nowhere.json must be a file that a page saved (nca-fast web)"),
        ("--replay {0}", "must be a file that a page saved (nca-fast web), but is a folder"),
        ("--replay {0}/long.json", "must have integers of at most 4300 digits, but has a longer one"),
        ("--replay {0}/lost.json", "must have the field 'models', but has 'nca_fast', 'mmm"),
        ("--replay {0}/cut.json", "must be JSON, but is not"),
        ("", "model must be given, unless there is a replay"),
        ("--replay {0}/r.json --seed 3", "seed must be left out with a replay"),
        ("--replay {0}/r.json --angle 30", "angle must be left out with a replay"),
        ("--replay {0}/r.json --start zeros", "start must be a picture with a replay"),
        ("{0}/0 --graft {0}/1 {0}/2 --replay {0}/r.json", "json, 0, 1, but got"),
    ],
)
def test_what_does_not_go_with_a_replay_is_refused(words, said, ncas, tmp_path, capsys):
    for number, nca in enumerate([*ncas, NCA(Rule(channels=5, hidden=(8,)))]):
        nca.save_pretrained(tmp_path / str(number))
    (tmp_path / "r.json").write_text(page(*ncas))
    (tmp_path / "cut.json").write_text(page(*ncas)[:-9])
    (tmp_path / "long.json").write_text(page(*ncas).replace("12", "1" * 5000, 1))
    (tmp_path / "lost.json").write_text(json.dumps({"nca_fast": 1, "m" * 10**5: 7}))
    assert main(["render", *words.format(tmp_path).split(), "--out", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 1000
