"""Growing automata: the picture with transparency, the recipe, and runs that resume to the bit."""

import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from runs import assert_same_run, logged
from trainings import train_growing

from nca_fast import NCA, cli
from nca_fast.media.images import load_rgba
from nca_fast.systems import growing
from nca_fast.systems.growing import Growing, GrowingConfig, GrowingSources
from nca_fast.training.damage import circles

CONFIG = GrowingConfig(
    image_size=8,
    image_margin=2,
    iterations=4,
    pool_size=6,
    batch_size=3,
    damage=1,
    early_iterations=2,
    early_size=4,
    steps_min=9,
    steps_max=10,
    lr_milestones=(2,),
    checkpoint_every=1,
    preview_every=2,
    video_steps=8,
    threads=1,
)


@pytest.fixture
def picture():
    target = torch.zeros(4, 8, 8)
    target[0, 2:6, 2:6], target[3, 2:6, 2:6] = 0.8, 1
    return target


def test_shipped_picture_is_what_its_script_draws(monkeypatch):
    examples = Path(__file__).parents[1] / "examples"
    monkeypatch.syspath_prepend(examples)
    from ladybird import ladybird

    with Image.open(examples / "ladybird.png") as shipped:
        assert shipped.mode == "RGBA" and shipped.tobytes() == ladybird().tobytes()


def test_transparency_is_kept_and_multiplied(tmp_path):
    image = Image.new("RGBA", (3, 2), (200, 100, 50, 0))
    image.putpixel((1, 0), (255, 51, 0, 102))
    image.save(tmp_path / "a.png")
    rgba = load_rgba(tmp_path / "a.png", 10)
    assert rgba.shape == (4, 2, 3)
    torch.testing.assert_close(rgba[:, 0, 1], torch.tensor([0.4, 0.08, 0, 0.4]))
    assert rgba[:, 0, 0].tolist() == [0, 0, 0, 0]
    Image.new("RGB", (40, 20), "white").save(tmp_path / "b.png")
    assert torch.equal(load_rgba(tmp_path / "b.png", 10), torch.ones(4, 5, 10))
    with pytest.raises(ValueError, match="there is no"):
        load_rgba(tmp_path / "c.png", 10)


def test_preset_is_the_notebooks():
    nca = NCA.preset("growing")
    assert sum(p.numel() for p in nca.parameters()) == 8336
    x = nca.initial_state(2, 9, 11)
    assert x.sum() == 2 * 13 and (x[:, 3:, 4, 5] == 1).all()
    assert torch.equal(nca.to_rgb(torch.zeros(1, 16, 2, 2)), torch.ones(1, 3, 2, 2))  # nothing is white
    y = nca(x, 3)
    assert torch.equal(y, x)  # untrained, the cell stays as it is


def test_circles():
    left = circles(40, 60, 1, 0.4, 0.4, torch.Generator().manual_seed(1))
    assert left.shape == (40, 60) and set(left.unique().tolist()) == {0.0, 1.0}
    erased = (1 - left).mean()
    assert erased.item() == pytest.approx(
        torch.pi * 0.4**2 / 4, rel=0.05
    )  # of the square from -1 to 1; cells are coarse
    assert (circles(9, 9, 0, 0.1, 0.2, torch.Generator()) == 1).all()


def test_worst_starts_afresh_and_best_are_damaged(picture, tmp_path):
    target = torch.nn.functional.pad(picture, [2] * 4)
    nca = NCA.preset("growing")
    states = torch.zeros(3, 16, 12, 12)
    states[0, :4], states[1, :4], states[2, :4] = target * 0.9, target * 5, target * 0.5
    states[:, 4:] = 1
    system = Growing(CONFIG, GrowingSources(picture), None, tmp_path)
    system.nca = nca
    after = system.augment(states.clone(), torch.Generator().manual_seed(0))
    assert torch.equal(after[1], nca.initial_state(1, 12, 12)[0])
    assert torch.equal(after[2], states[2])
    erased = (after[0, 4:] == 0).all(0)
    assert 0 < erased.sum() < 144 and torch.equal(after[0] * ~erased, states[0] * ~erased)


@pytest.mark.parametrize(("change", "left", "said"), [({}, 5, ""), ({"state_limit": 5.0}, 3, "67% of the states went")])
def test_states_with_large_hidden_channels_live_on(picture, tmp_path, change, left, said):
    system = Growing(replace(CONFIG, **change).resolved(), GrowingSources(picture), None, tmp_path)
    system.begin(system.model(), None)  # fresh weights change nothing
    pool = system.step.pool.states
    pool[:] = torch.nn.functional.pad(picture, [2] * 4).repeat(1, 4, 1, 1)
    pool[:, 4:] *= 8  # as those of healthy automata
    system.step(0, 0, mock.Mock(finite=None))  # with 3 of 6, of which one starts afresh in any case
    assert (pool.amax((1, 2, 3)) == 8).sum() == left
    notes = system.notes({"grown": 0.0, "regrown": 0.0})[1:]
    assert len(notes) == bool(said) and "".join(notes).startswith(said)


def test_an_interrupted_run_ends_as_one_that_was_left_alone(picture, tmp_path):
    whole = train_growing(CONFIG, picture, tmp_path / "whole", progress=False)
    assert all(path.exists() for path in whole.files)
    assert [line["iteration"] for line in logged(tmp_path / "whole")] == [1, 2, 3, 4]
    steps = [line["steps"] for line in logged(tmp_path / "whole")]
    assert 4 <= steps[0] <= 6 <= steps[1] <= 9 <= min(steps[2:])  # as long as the picture is wide, and longer
    train_growing(replace(CONFIG, iterations=2), picture, tmp_path / "parts", progress=False)
    train_growing(CONFIG, None, tmp_path / "parts", resume=True, progress=False)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    with pytest.raises(ValueError, match="image must be that of the run"):
        train_growing(CONFIG, picture / 2, tmp_path / "parts", resume=True, progress=False)


def test_regrowth_is_measured(picture):
    target = torch.nn.functional.pad(picture, [2] * 4)
    nca = NCA.preset("growing")  # untrained: what is cut stays cut
    left = growing.wound(12, 12)
    result = growing.regrowth(nca, target, left, steps=3)
    start = nca.initial_state(1, 12, 12)
    assert result.before == pytest.approx(growing.errors(start, target).item())
    assert 0.1 < (1 - left).mean() < 0.25 and (left[:, 0] == 1).all()
    assert torch.equal(result.states[1], start * left) and result.after == result.damaged


def test_command(tmp_path, capsys):
    image, out = str(Path(__file__).parents[1] / "examples" / "ladybird.png"), str(tmp_path / "run")
    short = "--image-size 8 --image-margin 2 --iterations 2 --pool-size 4 --batch-size 2 --damage 1 --video-steps 4"
    short += " --early-iterations 2 --steps-min 2 --steps-max 8 --learning-rate 1e-4"
    assert cli.main(["grow", image, "--out", out, *short.split(), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "regrowth.png" in printed and "growing.mp4" in printed
    assert re.search(r"squared error grown \S+, regrown \S+ .*; a run with --iterations 4 is sharper\n", printed)
    assert "to expect" not in printed  # ten iterations say how long a run takes
    assert cli.main(["grow", "--out", out, "--resume", "--iterations", "13"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^to expect: 13 iterations in \d+ s; 3000 left .*, fewer leave more$", said, re.MULTILINE)
    assert cli.main(["render", out, "--height", "20", "--width", "20", "--steps", "3", "--out", f"{out}/a.png"]) == 0
    assert cli.main(["grow", "missing.png", "--out", str(tmp_path / "b")]) == 2
    assert "there is no 'missing.png'" in capsys.readouterr().err


def test_a_picture_with_nothing_transparent_is_said(picture, tmp_path):
    """Else what is meant to grow as a shape grows as a rectangle, and nobody knows why."""
    picture[3, 2:, 3:] = 1
    for least, said in (0.9, 0), (1.0, 1):
        picture[3] = picture[3].clamp(min=least)
        work = growing.Growing(CONFIG, growing.GrowingSources(picture), None, tmp_path)
        assert len(work.beginning()) == said


@pytest.mark.parametrize(
    ("iterations", "said"),
    [
        (2999, "3000 left a squared error of 0.00017, 0.0046 where it regrew: .*, fewer leave more$"),
        (9000, "3000 left a squared error of 0.00017, 0.0046 where it regrew: .* sharp, .* or less.$"),
    ],
)
def test_what_a_number_of_iterations_gives(iterations, said, picture, tmp_path):
    work = Growing(GrowingConfig().resolved(), GrowingSources(picture), None, tmp_path)
    assert re.match(said, work.forecast(iterations)[0])


def test_a_run_begins_with_a_small_picture_and_ends_in_fine_steps():
    config = GrowingConfig(image_size=40, iterations=1000, learning_rate=2e-3).resolved()
    sizes = [config.size_at(n) for n in range(1000)]
    assert (sizes[0], sizes[100], sizes[299], sizes[500], sizes[999]) == (20, 20, 30, 40, 40)
    assert sizes == sorted(sizes) and set(sizes) == set(range(20, 41, 2))  # a pixel more on each side
    assert [config.steps_at(n) for n in (0, 699, 700)] == [(20, 30), (40, 60), (64, 96)]
    assert [config.rate_at(n) for n in (0, 399, 400, 999)] == [2e-3, 2e-3, 1e-3, 2e-3 / 32]
    longer = replace(config, iterations=2000).resolved()  # a longer run keeps what was planned
    assert longer.steps_at(700) == (64, 96) and longer.rate_at(400) == 1e-3 and longer.size_at(299) == 30
    assert GrowingConfig(iterations=1).resolved().lr_milestones == (1,)
    assert GrowingConfig(image_size=90).resolved().steps_at(2000) == (64, 96)  # never longer than the later ones
    plain = GrowingConfig(early_iterations=0).resolved()
    assert (plain.size_at(0), plain.steps_at(0)) == (32, (64, 96))


def test_a_smaller_picture_stays_in_the_middle(picture):
    target = torch.nn.functional.pad(picture, [2] * 4)
    small = growing.smaller(target, 0.5)
    assert small.shape == target.shape and torch.equal(growing.smaller(target, 1.0), target)
    torch.testing.assert_close(small, small.flip(1, 2), rtol=0, atol=1e-6)  # symmetric, as the picture is; seen: 6e-8
    ratio = small[3].sum() / target[3].sum()
    assert ratio.item() == pytest.approx(0.25, rel=0.02)  # an area; seen: 2e-7
    assert (small[:3] <= small[3:] + 1e-6).all()  # colours stay multiplied by alpha


def test_what_is_learned_grows(picture, tmp_path, monkeypatch):
    seen, prepare = [], Growing.prepare

    def prepared(self, planned):
        place = self.learned.data_ptr()
        prepare(self, planned)
        states = torch.nn.functional.pad(self.learned, (0, 0, 0, 0, 0, 12))[None]
        assert self.objective()(states, None)["mse"] == 0 and self.learned.data_ptr() == place
        seen.append((planned, self.learned[3].sum().item()))

    monkeypatch.setattr(Growing, "prepare", prepared)
    train_growing(CONFIG, picture, tmp_path, progress=False)
    (_, small), (_, larger), *late = seen
    assert small == pytest.approx(4, rel=0.02) and 4.1 < larger < 15.9  # a quarter of the area at first; seen: 2e-7
    assert late == [(2, 16.0), (3, 16.0)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"damage": 3}, "damage must be below batch_size=3, but got 3"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"early_size": 9}, "early_size must be at most image_size=8, but got 9"),
        ({"early_size": 0}, "early_size must be at least 1"),
        ({"video_steps": -1}, "video_steps must be at least 0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_bad_pictures(picture, tmp_path):
    for image, message in (
        (picture[:3], r"image must be \[4, h, w\]"),
        (picture * 0, "must have pixels that are not transparent"),
        (torch.ones(4, 9, 9), "must be at most image_size=8 pixels"),
        (None, "image must be given to begin a run"),
    ):
        with pytest.raises(ValueError, match=message):
            train_growing(CONFIG, image, tmp_path, progress=False)
    with pytest.raises(ValueError, match="preset must be an automaton that grows from a cell.*'texture'"):
        train_growing(replace(CONFIG, preset="texture"), picture, tmp_path, progress=False)
