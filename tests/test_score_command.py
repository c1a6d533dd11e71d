"""`nca-fast score`: what it draws, what it prints, and its errors."""

import json

import pytest
import torch

import nca_fast
from nca_fast import cli
from nca_fast.commands import measure
from nca_fast.commands.measure import as_learned, shrunk
from nca_fast.media.images import load_image, save_image
from nca_fast.scoring.score import score
from nca_fast.systems.texture import TextureSources


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "no hub"))


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "original.png"
    save_image(torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(5)), path)
    return path


def model(folder, **provenance):
    torch.manual_seed(0)
    start = provenance.pop("start", "zeros")
    rule = nca_fast.Rule(channels=6, hidden=(8,), frozen=3 if start == "image" else 0)
    nca = nca_fast.NCA(rule, start=start, init_gain=0.3, rgb_channel=3 if start == "image" else 0)
    nca.save_pretrained(folder, provenance)
    return folder


def texture(folder, original):
    config = {"image_size": 24, "image_crop": 48, "picture_steps": 3, "state_limit": 5.0}
    return model(folder, system="texture", image=str(original), config=config)


def test_a_run_is_drawn_and_measured(tmp_path, original, capsys):
    run = texture(tmp_path / "run", original)
    assert cli.main(["score", str(run), "--reference", str(original), "--seeds", "2"]) == 0
    printed, bar = capsys.readouterr()
    assert "\rdrawing, 1 of 2:   0%|" in bar and "drawing, 2 of 2: 100%|" in bar
    assert printed.endswith(f"next: nca-fast render {run} --out run.png\n      nca-fast info {run}\n")
    # The middle 48 pixels were 24 cells: all 96 are 48; the canvas has four times the training's side.
    assert "96 x 96 cells after 3 steps, seeds 0 to 1" in printed and "48 x 48 pixels" in printed
    for word in ("score", "waves", "patterns", "spectrum", "seam", "not measured: vgg16", "another half"):
        assert word in printed
    assert (
        cli.main(
            ["score", str(run), "--reference", str(original), "--seeds", "1", "--side", "32", "--steps", "2", "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["drawn"] == {"height": 32, "width": 32, "steps": 2, "seeds": [0]}
    assert found["run_away"] == 0 and found["reference"]["size"] == [48, 48]
    assert found["total"]["distance"] > 1 and set(found["measures"]) == {"waves", "waves-transport", "patterns"}


def test_a_picture_is_measured(tmp_path, original, capsys):
    other = tmp_path / "other.png"
    save_image(torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(6)), other)
    flat = tmp_path / "flat.png"
    save_image(torch.full((3, 96, 96), 0.5), flat)
    times = []
    for picture in (other, flat):
        assert cli.main(["score", str(picture), "--reference", str(original), "--json"]) == 0
        times.append(json.loads(capsys.readouterr().out)["total"]["distance"])
    assert times[0] < 1.5 and times[1] > 5 * times[0]
    assert cli.main(["score", str(other), "--reference", str(original), "--shrink", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["distance"] > 2 * times[0]  # noise of another size


def test_a_style_is_measured_on_a_picture_and_keeps_it(tmp_path, original, capsys):
    config = {"style_size": 64, "picture_steps": 1}
    run = model(tmp_path / "run", start="image", system="style", style=str(original), config=config)
    photo = tmp_path / "photo.png"
    save_image(shrunk(load_image(original), 1.5), photo)
    style = ["--reference", str(original)]
    assert cli.main(["score", str(run), *style, "--content", str(photo), "--seeds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["content_kept"] > 0.5 and found["drawn"]["height"] == 64
    assert cli.main(["score", str(run), *style]) == 2
    assert "content must be given" in capsys.readouterr().err


def test_what_runs_away_is_said(tmp_path, original, capsys):
    run = texture(tmp_path / "run", original)
    nca = nca_fast.NCA.from_pretrained(run)
    with torch.no_grad():
        nca.layers[-1].weight *= 1e4
        nca.layers[-1].weight += 10
    metadata = nca_fast.checkpoint.load_metadata(run / "model.safetensors")["provenance"]
    nca.save_pretrained(run, metadata)
    assert cli.main(["score", str(run), "--reference", str(original), "--seeds", "1", "--side", "32"]) == 0
    assert "1 of 1 drawings RUN AWAY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"system": ["texture"]}, "system"),
        ({"system": "texture", "config": "none"}, "config"),
        ({"system": "texture", "image": {}}, "image"),
        ({"system": "texture", "config": {"picture_steps": 2, "image_size": 0}}, "image_size"),
        ({"system": "texture", "config": {"picture_steps": 2}}, "image_size"),
        ({"system": "texture", "config": {"picture_steps": "2", "image_size": 32}}, "picture_steps"),
        ({"system": "texture", "textures": [{"name": "a", "image": None, "crop": 0}]}, "crop"),
    ],
)
def test_what_a_model_says_of_its_making_is_checked(tmp_path, original, capsys, facts, field):
    run = model(tmp_path / "run", **facts)
    assert cli.main(["score", str(run), *([] if "textures" in facts else ["--reference", str(original)])]) == 2
    error = capsys.readouterr().err
    assert f"'{field}'" in error and str(run / "model.safetensors") in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{picture}", "reference must be given for a picture"),
        ("{picture} --reference {picture} --steps 3", "steps must go with a run"),
        ("{picture} --reference {picture} --seeds 5", "seeds must go with a run"),
        ("{run} --reference {picture} --content {picture}", "content must go with a style, but"),
        ("{picture} --reference {picture} --shrink 0.5", "shrink must be at least 1, but got 0.5"),
        (
            "zoo:bricks --reference {picture}",
            "a run must say how its original was shrunk, which zoo:bricks does not: nca-fast info zoo:bricks has",
        ),
        ("{run} --seeds 0", "seeds must be at least 1, but got 0"),
        ("{other}", "must come from a texture or style training to be measured, but it comes from none of ours"),
        ("{picture} --reference {picture} --weights nothere.pth", "weights must be an existing file"),
    ],
)
def test_errors_are_one_line(tmp_path, original, capsys, arguments, message):
    paths = {
        "picture": original,
        "run": texture(tmp_path / "run", original),
        "other": model(tmp_path / "other"),
    }
    assert cli.main(["score", *(word.format(**paths) for word in arguments.split())]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_originals_are_shrunk_as_by_the_training():
    whole = torch.rand(3, 100, 200)
    assert as_learned(whole, 50).shape == (3, 25, 50)
    assert as_learned(whole, 50, crop=100).shape == (3, 50, 100)
    assert as_learned(whole, 400).shape == (3, 100, 200)
    assert as_learned(whole, 50, crop=100, shrink=4).shape == (3, 25, 50)


def test_a_training_says_how_good_its_picture_is(tmp_path, capsys, monkeypatch):
    """A trial of some seconds does not; a training that goes on without naming its picture cannot."""
    original = "skimage:brick"
    tiny = "--image-size 32 --image-crop 128 --iterations 2 --pool-size 4 --batch-size 2 --steps-min 2 --steps-max 4"
    words = f"--picture-steps 2 --threads 1 --no-video {tiny} --out {tmp_path / 'run'}".split()
    assert cli.main(["texture", original, *words]) == 0
    assert "score of" not in capsys.readouterr().out
    monkeypatch.setattr(measure, "WORTH_MEASURING", 0)
    words[words.index("--iterations") + 1] = "3"
    assert cli.main(["texture", original, "--resume", "--json", *words]) == 0
    page = json.loads(capsys.readouterr().out)
    (said,) = (line for line in page["said"] if line.startswith("score of texture.png"))
    picture = load_image(tmp_path / "run" / "texture.png")
    wanted = score([picture], as_learned(load_image(original), 32, 128))
    assert page["score"] == json.loads(json.dumps(wanted.as_json())) and said.endswith(wanted.lines()[0][6:])
    assert measure.drawing_score(tmp_path / "run", TextureSources(), 99) is None
    assert measure.drawing_score(tmp_path / "run", TextureSources(original, maps=("height=h.png",)), 99) is None
