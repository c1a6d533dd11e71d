"""CLIP guidance: its objective against the formulas, whole runs with the small model, resumed and shared runs."""

import os
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
import torch
from runs import assert_same_run, logged
from trainings import train_clip

import nca_fast
from nca_fast import checkpoint, cli, processes
from nca_fast.features.clip import ClipModel
from nca_fast.losses.clip import PromptDistance, flatness, fringes, whole
from nca_fast.losses.regularizers import overflow, total_variation
from nca_fast.media.images import load_image, save_image
from nca_fast.systems.clip import clip_objective, prompt_vectors
from nca_fast.systems.clip_settings import RECIPES, ClipConfig
from nca_fast.training import session

TINY = ClipConfig(
    image_size=16,
    iterations=4,
    pool_size=4,
    batch_size=2,
    reseed_every=2,
    steps_min=2,
    steps_max=4,
    lr_milestones=(2,),
    checkpoint_every=1,
    preview_every=2,
    picture_steps=3,
    picture_size=24,
    video_steps=0,
    backend="reference",  # the kernel's compilation has its own tests
    threads=1,
)
OPTIONS = "--image-size 16 --iterations 4 --pool-size 4 --batch-size 2 --reseed-every 2 --steps-min 2 --steps-max 4"
OPTIONS += " --lr-milestones 2 --checkpoint-every 1 --preview-every 2 --picture-steps 3 --picture-size 24"
OPTIONS += " --video-steps 0 --backend reference --threads 1"
FILES = {"clip.png", "preview.png", "model.safetensors", "log.jsonl", "training.safetensors"}


@pytest.fixture(scope="session")
def small():
    return ClipModel()


@pytest.fixture(autouse=True)
def one_model(small, monkeypatch):
    """Loading it takes a second; every run here may have the same one."""
    monkeypatch.setattr("nca_fast.systems.clip.ClipModel", lambda model, pretrained: small)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    save_image(torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(5)), path)
    return str(path)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, small):
    """The run that nothing interrupted and nobody shared."""
    folder = tmp_path_factory.mktemp("whole")
    train_clip(TINY, ["red bricks", "noise:-0.3"], [], folder, progress=False)
    return folder


# The objective


def generator():
    return torch.Generator().manual_seed(0)


def test_objective_of_deb(small):
    """-mean(text . image) + overflow, of the whole picture as it is."""
    nca = nca_fast.NCA.preset("clip")
    states = torch.randn(4, 12, 24, 24)
    text = small.encode_text(["blue dots"])
    distance = PromptDistance(text, torch.ones(1), "dot")
    losses = clip_objective(RECIPES["deb"], small, distance, nca)(states, generator())
    pictures = torch.nn.functional.interpolate(states[:, :3] + 0.5, (64, 64), mode="bilinear")
    wanted = -(text @ small.network.encode_image(pictures).T).mean()
    # float32, channels last or not: 2e-6 at worst in values of 10.
    torch.testing.assert_close(losses["clip"], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["overflow"], (states - states.clamp(-1, 1)).abs().sum())
    assert set(losses) == {"clip", "overflow"}


def test_objective_of_petersen(small, tmp_path):
    """100 spherical distance of half as bright pictures + content + overflow + aesthetics."""
    head = torch.nn.Linear(small.width, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    config = replace(
        RECIPES["petersen"], features="random", content_layers=(3,), aesthetic=str(tmp_path / "head.pth"), batch_size=2
    )
    nca = nca_fast.NCA.preset("image-manipulation")
    states = nca.initial_state(2, 24, 24, image=torch.rand(2, 3, 24, 24)) + 0.3 * torch.randn(2, 18, 24, 24)
    text = small.encode_text(["blue dots"])
    losses = clip_objective(config, small, PromptDistance(text, torch.ones(1)), nca)(states, generator())
    vectors = torch.nn.functional.normalize(small(whole(states[:, 3:6] + 0.5, (64, 64)) / 2), dim=1)
    half = (vectors - torch.nn.functional.normalize(text, dim=1)).norm(dim=1) / 2
    torch.testing.assert_close(losses["clip"], 100 * (2 * half.arcsin() ** 2).mean(), rtol=1e-4, atol=1e-4)
    rating = head(vectors)[:, 0]
    torch.testing.assert_close(losses["aesthetic"], 0.5 * (rating - 9.9).square().mean(), rtol=1e-4, atol=1e-4)
    assert set(losses) == {"clip", "aesthetic", "content", "overflow"}
    assert losses["content"] > 0


def test_default_objective_is_a_sum_over_samples(small):
    """So that shares of a batch add up, and weights hold for all canvases."""
    nca = nca_fast.NCA.preset("clip")
    states = torch.rand(4, 12, 16, 16) * 2.5 - 1
    config = replace(ClipConfig(), batch_size=4, variation_weight=0.1, contrast=0.8, contrast_weight=0.5)
    targets, weights = prompt_vectors(small, ["red bricks", "noise:-0.5"])
    objective = clip_objective(config, small, PromptDistance(targets, weights), nca)
    together = objective(states, generator())
    shares = [objective(states[:1], generator()), objective(states[1:], generator())]
    assert set(together) == {"clip", "overflow", "range", "contrast", "fringe", "variation"}
    for name, value in together.items():
        # Sums in another order.
        torch.testing.assert_close(shares[0][name] + shares[1][name], value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together["overflow"], overflow(states))
    rgb = states[:, :3] + 0.5
    torch.testing.assert_close(together["range"], (rgb - rgb.clamp(0, 1)).abs().sum())
    assert together["contrast"] > 0
    torch.testing.assert_close(together["contrast"], 0.5 * flatness(rgb.clamp(0, 1), 0.8))
    torch.testing.assert_close(together["fringe"], 0.05 * fringes(rgb.clamp(0, 1)))
    torch.testing.assert_close(together["variation"], 0.1 * total_variation(states[:, :3]))


def test_losses_without_weight_are_not_computed(small):
    nca = nca_fast.NCA.preset("image-manipulation")
    none = dict.fromkeys(("content", "overflow", "range", "contrast", "fringe"), 0.0)
    config = replace(ClipConfig(), **{f"{name}_weight": weight for name, weight in none.items()})
    targets, weights = prompt_vectors(small, ["red bricks"])
    states = nca.initial_state(1, 16, 16, image=torch.rand(3, 16, 16))
    assert set(clip_objective(config, small, PromptDistance(targets, weights), nca)(states, generator())) == {"clip"}


def test_prompt_vectors(small, picture):
    targets, weights = prompt_vectors(small, ["red bricks:2", "noise:-0.5"], [f"{picture}:0.25"])
    assert weights.tolist() == [2, -0.5, 0.25]
    assert torch.equal(targets[:2], small.encode_text(["red bricks", "noise"]))
    square = load_image(picture)[None, :, :, 5:25]
    wanted = small(torch.nn.functional.interpolate(square, (64, 64), mode="bilinear", antialias=True))
    # A batch of another size changes the order of sums.
    torch.testing.assert_close(targets[2:], wanted, rtol=1e-4, atol=1e-4)


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 8}, "image_size must be at least 16, but got 8"),
        ({"cutouts": -1}, "cutouts must be at least 0, but got -1"),
        ({"cutout_min": 0.0}, "cutout_min and cutout_max must be in"),
        ({"cutout_min": 0.9, "cutout_max": 0.5}, "cutout_min and cutout_max must be in"),
        ({"distance": "l2"}, "distance must be one of dot, cosine, spherical, but got 'l2'"),
        ({"clip_input": "x"}, "clip_input must be one of"),
        ({"clip_scale": "x"}, "clip_scale must be one of cells, mean"),
        ({"contrast": 0.0}, "contrast must be positive"),
        ({"contrast_weight": -1.0}, "contrast_weight must be at least 0"),
        ({"fringe_weight": -1.0}, "fringe_weight must be at least 0"),
        ({"clip_weight": -1.0}, "clip_weight must be at least 0"),
        ({"aesthetic_target": 11}, "aesthetic_target must be from 0 to 10, but got 11"),
        ({"pretrained": "openai"}, "pretrained must go with a model"),
        ({"weights": "vgg.pth"}, "weights must go with features vgg16 or vgg19"),
        ({"content_layers": ()}, "content_layers must be one or more numbers from 0"),
        ({"bptt_steps": 0}, "bptt_steps must be at least 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**change)


def test_a_run_needs_a_prompt(tmp_path):
    with pytest.raises(ValueError, match="a prompt must be given to begin a run"):
        train_clip(TINY, [], [], tmp_path, progress=False)


@pytest.mark.parametrize(("preset", "content"), [("clip", True), ("image-manipulation", False)])
def test_presets_go_with_or_without_content(tmp_path, picture, preset, content):
    with pytest.raises(ValueError, match=f"preset '{preset}' must be used with"):
        train_clip(replace(TINY, preset=preset), ["red bricks"], [picture] * content, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_unknown_word_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match="not 'bicycle'"):
        train_clip(TINY, ["a red bicycle"], [], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


# Whole runs


def test_run_out_of_noise(whole_run):
    assert {path.name for path in whole_run.iterdir()} == FILES
    assert load_image(whole_run / "clip.png").shape == (3, 64, 64)
    assert load_image(whole_run / "preview.png").shape == (3, 16, 3 * 16 + 2 * 2)
    facts = checkpoint.load_metadata(whole_run / "model.safetensors")["provenance"]
    assert facts["prompts"] == ["red bricks", "noise:-0.3"]
    assert nca_fast.NCA.from_pretrained(whole_run).rule.hidden == (128,)


def test_resumed_run_is_the_same(tmp_path, whole_run):
    train_clip(replace(TINY, iterations=3), ["red bricks", "noise:-0.3"], [], tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"prompts must be that of the run .*red bricks.*Leave it out"):
        train_clip(TINY, ["blue dots"], [], tmp_path, resume=True, progress=False)
    train_clip(TINY, [], [], tmp_path, resume=True, progress=False)
    assert_same_run(tmp_path, whole_run)


def test_run_on_pictures(tmp_path, picture):
    config = replace(TINY, image_prompts=(f"{picture}:0.5",))
    train_clip(replace(config, iterations=3), ["leopard fur"], [picture], tmp_path / "a", progress=False)
    train_clip(config, [], [], tmp_path / "a", resume=True, progress=False)
    train_clip(config, ["leopard fur"], [picture], tmp_path / "b", progress=False)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES | {"pictures.safetensors"}
    assert load_image(tmp_path / "a" / "clip.png").shape == (3, 16, 24)
    assert nca_fast.NCA.from_pretrained(tmp_path / "a").rule.channels == 18
    assert all(line["content"] > 0 for line in logged(tmp_path / "a"))


def test_guidance_lowers_the_loss(tmp_path):
    config = replace(TINY, iterations=40, batch_size=1, steps_max=8, steps_min=8, preset="texture", preview_every=100)
    train_clip(config, ["plain blue texture"], [], tmp_path, progress=False)
    values = [line["clip"] for line in logged(tmp_path)]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    rgb = load_image(tmp_path / "clip.png").mean((1, 2))
    assert rgb[2] > rgb[0] + 0.1


def test_command(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["clip", "red bricks", "noise:-0.3", "--out", str(out), *OPTIONS.split()]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in FILES)
    assert f"next: nca-fast render {out}" in printed
    assert cli.main(["clip", "--resume", "--out", str(out), "--iterations", "5"]) == 0
    assert checkpoint.load_metadata(out / "training.safetensors")["iteration"] == 5
    assert cli.main(["clip", "--resume", "--out", str(out), "--cutouts", "2"]) == 2
    assert "cutouts (was 4, now 2)" in capsys.readouterr().err


def test_recipe_is_where_the_options_begin(monkeypatch, tmp_path):
    asked = {}

    def train(system, sources, out, config, **options):
        asked.update(config=config, prompts=sources.prompts)
        raise OSError("seen enough")

    monkeypatch.setattr(session, "run_training", train)
    assert cli.main(["clip", "noise", "--recipe", "deb", "--out", str(tmp_path / "x"), "--pool-size", "9"]) == 2
    assert asked == {"config": replace(RECIPES["deb"], pool_size=9), "prompts": ("noise",)}


# Several processes


def test_two_processes_train_the_same_automaton(tmp_path, whole_run):
    package = Path(nca_fast.__file__).parent
    command = [package / "__main__.py", "clip", "red bricks", "noise:-0.3", *OPTIONS.split(), "--out", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
    imports = """
import nca_fast.cli, torch._dynamo
from nca_fast.features.torchvision_compat import import_torchvision
import_torchvision()
import open_clip
"""
    finished = fresh.together(2, command, imports, cwd=package.parent, env=environment)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert finished.stdout.count("next: nca-fast render") == 1
    assert finished.stderr.count("| 0/4 [") == 1  # one bar is begun
    tensors, _ = checkpoint.load(tmp_path / "training.safetensors")
    wanted, _ = checkpoint.load(whole_run / "training.safetensors")
    # Sums in another order. Adam moves a weight by up to the learning rate however small its gradient is, so where that
    # is nothing but rounding it shows: 3e-3 at worst, in 2 of 6,144 weights; 1e-6 in the mean.
    for name in (name for name in wanted if name.startswith("model.") or name == "pool"):
        difference = (tensors[name] - wanted[name]).abs()
        assert difference.max() <= TINY.iterations * TINY.learning_rate, name
        assert difference.mean() <= 1e-4, name
    for found, expected in zip(logged(tmp_path), logged(whole_run), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_batch_must_be_shared_evenly(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    assert processes.share(6) == slice(3, 6)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes, but got 3"):
        processes.share(3)


def test_prompts_are_said_as_they_were_understood(capsys, tmp_path):
    """The number after the last colon is a weight, wherever a text means the time."""
    assert cli.main(["clip", "red dots at 12:30", "noise:-0.3", "--model", "none", "--out", str(tmp_path / "a")]) == 2
    assert capsys.readouterr().out == "prompt 'red dots at 12', weight 30\nprompt 'noise', weight -0.3\n"
