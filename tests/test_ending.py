"""How commands begin to work and end: bars that are there before the first step, and what is proposed."""

import contextlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nca_fast
from nca_fast import checkpoint, cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.commands.parser import joined, parse
from nca_fast.commands.score import ScoreCommand
from nca_fast.media.images import save_image
from nca_fast.scoring.spelling import scoring
from nca_fast.systems.texture import Texture
from nca_fast.systems.texture_settings import TextureConfig, TextureSources
from nca_fast.training.session import run_training


def noise(path, side=24):
    save_image(torch.rand(3, side, side, generator=torch.Generator().manual_seed(5)), path)
    return str(path)


@pytest.fixture
def runs(tmp_path):
    """A folder with a texture run, a style run, pictures, a mask and a folder of pictures."""
    torch.manual_seed(0)
    rule, made = nca_fast.Rule(channels=6, hidden=(8,)), {"config": {"image_size": 16, "picture_steps": 3}}
    nca_fast.NCA(rule, start="noise").save_pretrained(tmp_path / "texture", made | {"system": "texture"})
    styled = nca_fast.NCA(nca_fast.Rule(channels=8, hidden=(8,), frozen=3), start="image", rgb_channel=3)
    styled.save_pretrained(tmp_path / "style", made | {"system": "style"})
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/one.png"):
        noise(tmp_path / name)
    save_image(torch.ones(3, 24, 24), tmp_path / "mask.png")
    return tmp_path


TYPED = [
    "render texture --size 8 --out {out}.gif",
    "apply style photos --out {out}",
    "fill photo.png --mask mask.png --texture texture --steps 3 --out {out}.png",
    "web texture --out {out}.html",
    "web style --out {out}.html",
    "web zoo:lava --out {out}.html",
    "export texture --to json --out {out}.json",
]


@pytest.mark.parametrize("typed", TYPED)
def test_two_commands_are_proposed_that_can_be_typed(runs, capsys, monkeypatch, typed):
    monkeypatch.chdir(runs)
    assert cli.main(typed.format(out=runs / "made").split()) == 0
    proposed = capsys.readouterr().out.rpartition("next: ")[2].splitlines()
    assert len(proposed) == 2 and proposed[0] != proposed[1]
    for line in proposed:
        program, *words = shlex.split(line)
        command = parse(joined(words))
        if "PICTURE" not in line and "--replay" not in line:
            command.check()
        assert program == "nca-fast"


def test_a_measured_run_is_told_how_to_train_for_as_long_again(runs):
    saved = {"system": "texture", "iteration": 40, "config": {"minutes": None}}
    asked = ScoreCommand(str(runs / "texture"))
    assert asked.then()[1] == f"nca-fast info {runs}/texture"
    for config, length in (({"minutes": None}, "--iterations 80"), ({"minutes": 1.5}, "--minutes 3")):
        checkpoint.save(runs / "texture" / "training.safetensors", {}, saved | {"config": config})
        assert asked.then()[1] == f"nca-fast texture --out {runs}/texture --resume {length}"


@pytest.mark.parametrize(
    ("originals", "options"),
    [
        ({None: "skimage:brick"}, ""),
        ({None: "my photo.png"}, " --reference 'my photo.png'"),
        ({None: None}, " --reference PICTURE"),
        ({"brick": "skimage:brick", "grass": "skimage:grass"}, ""),
        ({"brick": "skimage:brick", "wool": "wool.png"}, " --texture wool --reference wool.png"),
    ],
)
def test_a_measurement_that_is_proposed_names_the_original(originals, options):
    """No path that a model file names is followed, so that without the option it would end in an error."""
    assert scoring("runs/mine", originals) == f"nca-fast score runs/mine{options}"


@pytest.mark.parametrize(("side", "then"), [(32, "score runs/mine --reference mine.png"), (31, "info runs/mine")])
def test_what_is_too_small_is_not_proposed_to_be_measured(side, then):
    trained = SimpleNamespace(swatches=[], facts={"image": "mine.png"}, targets=[torch.zeros(3, 40, side)])
    assert Texture.then(trained, Path("runs/mine"))[1] == f"nca-fast {then}"


@pytest.mark.parametrize(
    ("typed", "then"),
    [
        ("profile --dry-run --size 8", ["profile --size 8 --against eager,compile", "profile --size 8 --backward"]),
        (
            "profile --backward --against eager --batch=2",
            [f"profile --backward --against eager {more}" for more in ("--batch=2 --size 256", "--batch 4")],
        ),
    ],
)
def test_a_profile_leads_to_others(typed, then):
    assert parse(typed.split()).then(f"nca-fast {typed}") == [f"nca-fast {line}" for line in then]


@pytest.mark.parametrize(
    ("typed", "bar"),
    [
        ("render texture --size 8 --out {out}.png", "made.png"),
        ("render texture --size 8 --out {out}.gif", "made.gif"),
        ("apply style photo.png --out {out}.png", "made.png"),
        ("fill photo.png --mask mask.png --texture texture --steps 3 --out {out}.png", "made.png"),
    ],
)
def test_a_bar_stands_there_before_the_first_step(runs, capsys, monkeypatch, typed, bar):
    """It takes the place of the line that says that models are opened."""
    begun, go = [], Canvas.go
    monkeypatch.setattr(Canvas, "go", lambda *of: [begun.append(capsys.readouterr().err), go(*of)][1])
    monkeypatch.chdir(runs)
    assert cli.main(typed.format(out=runs / "made").split()) == 0
    assert re.search(rf"\r{re.escape(bar)}: +0%\|.*0.00/\d.*cell-steps/s", begun[0]), begun[0]
    assert "100%" in capsys.readouterr().err


def test_a_training_says_what_it_waits_for(tmp_path):
    waits = []
    config = TextureConfig(image_size=32, iterations=1, pool_size=4, batch_size=2, steps_min=2, steps_max=4)
    sources = TextureSources(noise(tmp_path / "a picture.png", 48))
    how = {"progress": False, "wait": lambda what: [waits.append(what), contextlib.nullcontext()][1]}
    result = run_training(Texture, sources, tmp_path / "run", config, **how)
    (scored,) = [shlex.split(line)[1:] for line in result.then if "nca-fast score" in line]
    assert cli.main([*scored, "--seeds", "1", "--side", "32", "--steps", "2"]) == 0  # a picture of one's own
    assert waits == [
        "reading pictures",
        "loading PyTorch's optimizers",
        "learning from the picture what to look at",
        "trying whether it lasts",
        "measuring and drawing what was learned",
    ]
