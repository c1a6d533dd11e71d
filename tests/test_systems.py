"""The five systems: one contract, one iteration on any device, and two on the Triton kernels."""

import re
import sys
import warnings
from dataclasses import fields

import pytest
import torch
from trainings import train

from nca_fast import checkpoint
from nca_fast.rule import Rule
from nca_fast.systems import TASKS
from nca_fast.systems.vae.architecture import ARCHITECTURES, Architecture
from nca_fast.training import session
from nca_fast.training.descent import DELAY, Descent
from nca_fast.training.optimizers import make_optimizer
from nca_fast.training.settings import FREE_ON_RESUME

SHORT = {"iterations": 2, "seed": 3, "threads": 1}
POOL = SHORT | {"pool_size": 3, "batch_size": 2, "steps_min": 2, "steps_max": 3, "reseed_every": 2}
STILL = {"picture_steps": 2, "video_steps": 0}
TINY_VAE = Architecture(
    Rule(channels=4, hidden=(6,), filters=("sobel_x5/8",), padding="zero", maximum_window=3, alive_channel=0),
    size=8,
    latent=3,
    steps=3,
    encoder=((4, 3, 1, 1, True), (5, 4, 1, 0, False)),
    decoder=(7,),
    grey=True,
)


def noise(seed, height=16, width=16):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """Every system in several settings, which use all of its losses: (name, settings, sources)."""
    monkeypatch.setitem(ARCHITECTURES, "vae-mnist", TINY_VAE)
    weights = tmp_path / "head.safetensors"
    checkpoint.save(weights, {"weight": torch.randn(1, 128), "bias": torch.zeros(1)}, {})
    style = POOL | STILL | {"style_size": 16, "content_size": 16, "early_iterations": 0, "picture_size": 16}
    clip = POOL | STILL | {"image_size": 16, "picture_size": 16, "aesthetic": str(weights), "variation_weight": 0.1}
    target = torch.cat([noise(1, 8, 8), torch.ones(1, 8, 8)])
    content = [noise(2), noise(3, 20, 30)]
    texture = POOL | STILL | {"image_size": 16}
    return {
        "texture w2": ("texture", texture, {"image": noise(1)}),
        "texture ot": ("texture", texture | {"loss": "ot", "features": "patches"}, {"image": noise(1)}),
        "texture gram": ("texture", texture | {"loss": "gram"}, {"image": noise(1)}),
        "style": ("style", style | {"variation_weight": 0.1}, {"style": noise(1), "content": content}),
        "style gram": (
            "style",
            style | {"loss": "gram", "content_loss": "gram", "bptt_steps": 1},
            {"style": noise(1), "content": content},
        ),
        "clip": ("clip", clip, {"prompts": ["red dots", "noise:-0.3"]}),
        "clip whole": ("clip", clip | {"cutouts": 0}, {"prompts": ["red dots"]}),
        "clip content": ("clip", clip, {"prompts": ["red dots"], "content": content}),
        "grow": (
            "grow",
            POOL
            | {"image_size": 8, "image_margin": 1, "damage": 1, "overflow_weight": 0.1, "video_steps": 4}
            | {"early_iterations": 0},
            {"image": target},
        ),
        "vae": ("vae", SHORT | {"batch_size": 2, "damage": 2}, {"dataset": "digits"}),
        "vae deterministic": (
            "vae",
            SHORT | {"batch_size": 2, "deterministic": True, "loss": "bce"},
            {"dataset": "digits"},
        ),
    }


CASES = ("texture w2", "texture ot", "texture gram", "style", "style gram", "clip", "clip whole", "clip content")
CASES += ("grow", "vae", "vae deterministic")


def begun(case, device, tmp_path):
    """A system that is ready for its first iteration on a device, and its step down."""
    name, settings, sources = case
    system = TASKS[name].system
    config = system.Config(**settings).resolved()
    work = system(config, system.Sources(**sources), None, tmp_path)
    model = work.model().to(device)
    work.begin(model, None)
    descent = Descent(
        model, make_optimizer(config.optimizer, model, config.learning_rate), work.adjust_gradients, work.remedy
    )
    descent.begin(0, config.learning_rate)
    return work, descent


@pytest.mark.parametrize("name", CASES)
def test_an_iteration_reads_nothing_from_its_device(cases, tmp_path, name):
    """Tensors on the meta device have no numbers: whoever reads one, or mixes it with one elsewhere, fails."""
    work, descent = begun(cases[name], "meta", tmp_path)
    for iteration in range(2):  # with and without a state that starts afresh
        work.step(iteration, iteration, descent)
    tensors = work.tensors() | dict(work.nca.named_parameters() if hasattr(work, "nca") else {})
    assert {tensor.device.type for tensor in tensors.values()} <= {"meta"}
    assert all(parameter.grad.is_meta for group in descent.optimizer.param_groups for parameter in group["params"])
    assert descent.finite.is_meta and len(descent.readings(everything=True)) == 2 < DELAY


def test_a_read_is_noticed(cases, tmp_path, monkeypatch):
    """What the test above would say of a loss that is read."""
    work, descent = begun(cases["texture w2"], "meta", tmp_path)
    objective = work.step.objective
    work.step.objective = lambda *arguments: {k: v * float(v) for k, v in objective(*arguments).items()}
    with pytest.raises(RuntimeError, match="item.* on meta tensors|meta tensors"):
        work.step(0, 0, descent)


@pytest.mark.parametrize("name", ["texture gram", "grow"])
def test_the_loss_of_a_cell_is_that_of_any_batch(cases, tmp_path, name):
    """As the bar of a training shows it."""
    system, settings, sources = cases[name]
    found = []
    for batch in (1, 2):
        given = {"batch_size": batch, "damage": 0}
        work, _ = begun(
            (system, settings | {k: v for k, v in given.items() if k in settings}, sources), "cpu", tmp_path
        )
        shape = (1, work.nca.rule.channels, *work.size())
        states = torch.rand(shape, generator=torch.Generator().manual_seed(0)).repeat(batch, 1, 1, 1)
        losses = work.step.objective(states, torch.Generator().manual_seed(0))
        found.append(float(sum(losses.values())) / work.summed())
    assert found[1] == pytest.approx(found[0], rel=1e-5)  # sums in another order; worst seen 2e-7, of w2


@pytest.mark.parametrize("name", ["texture w2", "style", "clip", "grow", "vae"])
def test_two_iterations_on_the_triton_kernels(cases, tmp_path, name):
    """In the precision that is the default on a GPU, run by the interpreter; losses are near those of the reference."""
    system, settings, sources = cases[name]
    tiny = {"steps_min": 1, "steps_max": 1, "batch_size": 1, "damage": 0, "precision": "fp16"}
    tiny = {key: value for key, value in tiny.items() if key in settings or key == "precision"}
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)  # of the initial weights
        work, descent = begun((system, settings | tiny | {"backend": backend}, sources), "cpu", tmp_path)
        for iteration in range(2):
            work.step(iteration, iteration, descent)
        found.append([descent.read(reading)[0] for reading in descent.readings(everything=True)])
    assert found[0] == pytest.approx(found[1], rel=1e-3)  # worst seen 4e-6: units that switch elsewhere


def test_every_system_fulfils_the_contract():
    from nca_fast.training.system import System

    asked = {name for name in vars(System) if not name.startswith("_")} | set(System.__annotations__)
    for name, task in TASKS.items():
        system = task.system
        assert system.name == task.name == name and task.help.count("nca-fast " + name)
        assert (system.Sources, system.Config) == (task.Sources, task.Config)
        known = {field.name for field in fields(system.Config)}
        assert set(system.free_on_resume) <= known and set(FREE_ON_RESUME) <= set(system.free_on_resume)
        assert all(isinstance(recipe, system.Config) for recipe in task.recipes.values())
        assert set(task.main) <= known | {field.name for field in fields(task.Sources)}
        system.Config(), system.Sources()
        missing = {member for member in asked if not hasattr(system, member)} - {"config", "facts", "step"}
        assert not missing, (name, missing)


def test_systems_know_their_names_in_their_folders(tmp_path, cases):
    system, settings, sources = cases["grow"]
    train(system, TASKS[system].system.Config(**settings), tmp_path / "run", **sources)
    with pytest.raises(ValueError, match="must be one of nca-fast texture, but it is one of nca-fast grow"):
        train("texture", None, tmp_path / "run", resume=True)


def test_a_run_goes_on_elsewhere(tmp_path, cases):
    """Device, backend and precision may change when a run is resumed."""
    system, settings, sources = cases["texture w2"]
    config = TASKS[system].system.Config(**settings | {"backend": "reference", "device": "cpu"})
    train(system, config, tmp_path / "run", **sources)
    later = TASKS[system].system.Config(**settings | {"backend": "cpu", "iterations": 3, "device": "auto"})
    assert train(system, later, tmp_path / "run", resume=True).iterations == 3
    stored = checkpoint.load_metadata(tmp_path / "run" / "training.safetensors")["config"]
    assert stored["backend"] == "cpu" and stored["device"] == "auto"


@pytest.mark.parametrize("name", ["texture w2", "clip content", "grow", "vae"])
def test_a_training_ends_well_without_an_encoder_and_says_so_before(cases, tmp_path, monkeypatch, name):
    system, settings, sources = cases[name]
    config = TASKS[system].system.Config(**settings | {"iterations": 1, "video_steps": 2})
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    seen = []
    monkeypatch.setattr(session, "_train", lambda *arguments: seen.append(len(caught)) or (1.0, 1, None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(system, config, tmp_path / "run", **sources)
    (film,) = [file for file in TASKS[system].system.files if file.endswith(".mp4")]
    said = [str(warning.message) for warning in caught]
    assert seen == [1]
    assert re.match(rf"{film} will not be made. MP4 needs ffmpeg: pip install imageio-ffmpeg", said[0])
    assert all("shows a single colour" in sentence for sentence in said[1:])  # it was not trained
    assert result.files and not (tmp_path / "run" / film).exists()


@pytest.mark.parametrize("name", ["texture w2", "style", "clip", "grow", "vae"])
def test_video_steps(cases, tmp_path, monkeypatch, name):
    """So many steps are filmed, and 0 asks for no film, in every system."""
    system, settings, sources = cases[name]
    monkeypatch.setattr(session, "_train", lambda *arguments: (1.0, 1, None))
    (film,) = [file for file in TASKS[system].system.files if file.endswith(".mp4")]
    for steps in (0, 2):
        config = TASKS[system].system.Config(**settings | {"video_steps": steps})
        result = train(system, config, tmp_path / f"run {steps}", **sources)
        assert [file.name for file in result.files if file.suffix == ".mp4"] == [film] * (steps > 0)
