"""VAE-NCA: shapes and formulas, training that resumes to the bit, and what is drawn."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import assert_same_run, logged
from torch.distributions import Normal, kl_divergence
from trainings import train_vae

from nca_fast import checkpoint, cli
from nca_fast.media.datasets import load_pictures
from nca_fast.media.images import load_image, save_image
from nca_fast.presets import PRESETS
from nca_fast.rule import Rule
from nca_fast.systems.vae import drawing, system
from nca_fast.systems.vae.architecture import ARCHITECTURES, Architecture
from nca_fast.systems.vae.model import VAENCA, divergence
from nca_fast.systems.vae.settings import VAEConfig

TINY = Architecture(
    Rule(
        channels=4, hidden=(6,), filters=("identity", "sobel_x5/8"), padding="zero", maximum_window=3, alive_channel=0
    ),
    size=8,
    latent=3,
    steps=5,
    encoder=((4, 3, 1, 1, True), (5, 4, 1, 0, False)),
    decoder=(7,),
    grey=True,
)
CONFIG = VAEConfig(iterations=4, batch_size=3, lr_milestones=(2,), checkpoint_every=1, preview_every=2, threads=1)


@pytest.fixture
def tiny(monkeypatch):
    """The MNIST model, made small."""
    monkeypatch.setitem(ARCHITECTURES, "vae-mnist", TINY)


@pytest.fixture
def model():
    torch.manual_seed(1)
    vae = VAENCA(TINY)
    with torch.no_grad():
        vae.common_w2.normal_(0, 0.3)
        vae.w2[-1].weight.normal_(0, 0.3)
    return vae


@pytest.mark.parametrize(
    "name, generated, size", [("vae-mnist", 3_648, 28), ("vae-cifar", 18_080, 32), ("vae-face", 55_552, 40)]
)
def test_the_papers_sizes(name, generated, size):
    """Numbers that the decoder writes, as the published code has them."""
    architecture = ARCHITECTURES[name]
    rule = architecture.rule
    assert rule == PRESETS[name]["rule"]
    assert sum(out * (inputs + bias) for out, inputs, bias in rule.layers) == generated
    channels, side = architecture.picture_channels, size
    with torch.device("meta"):  # 25 million weights need not exist
        vae = VAENCA(architecture)
        codes = vae.encode(torch.empty(2, channels, side, side))
        assert [t.shape for t in codes] == [(2, architecture.latent)] * 2
        (w1, b1), (w2, none) = vae.weights(codes[0])
    assert w1.numel() + b1.numel() + w2.numel() == 2 * generated and none is None


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    want = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), want)
    torch.testing.assert_close(divergence(mean, None), mean.pow(2).sum(1))


def test_latent_is_drawn_with_mean_and_variance(model):
    mean, log_variance = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.0, 2.0, -4.0]])
    draws = torch.cat([model.latent(mean, log_variance, torch.randn(1, 3)) for _ in range(4000)])
    # Four standard errors of the mean and of the standard deviation.
    deviation = (log_variance / 2).exp()
    assert ((draws.mean(0) - mean).abs() < 4 * deviation / 4000**0.5).all()
    assert ((draws.std(0) / deviation - 1).abs() < 4 / 8000**0.5).all()
    assert torch.equal(model.latent(mean, None, torch.randn(1, 3)), mean)


def test_pictures_grow_by_their_own_rules(model):
    pictures = torch.rand(3, 1, 8, 8)
    weights = model.weights(model.encode(pictures)[0])
    together = model.grow(weights, seed=1)
    assert together.shape == (3, 4, 8, 8) and not torch.equal(together[0], together[1])
    exact = model.grow(weights, seed=1, backend="reference")
    torch.testing.assert_close(together, exact, rtol=1e-4, atol=1e-5)  # two float32 computations of 5 steps
    half = model.grow(weights, steps=2, seed=1)
    assert torch.equal(model.grow(weights, state=half, steps=3, first_step=2, seed=1), together)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_new_model_tells_pictures_apart(deterministic):
    """The plateau of old: latent means a thousandth of the noise apart, rules 1e-5 of a weight."""
    pictures = torch.rand(24, 1, 28, 28)
    torch.manual_seed(0)
    vae = VAENCA(ARCHITECTURES["vae-mnist"], deterministic=deterministic)
    raw, log_variance = vae.encode(pictures)
    assert raw.std(0).mean() > 0.01  # seen: 0.055 and more; 1e-4 with PyTorch's weights
    vae.standardize(pictures)
    mean, after = vae.encode(pictures)
    # Rounding of float32 in numbers of which what is told apart is a hundredth; worst seen 1e-6 and 4e-7.
    assert mean.mean(0).abs().max() < 1e-4 and (mean.std(0, correction=0) - 1).abs().max() < 1e-4
    assert after is log_variance or torch.equal(after, log_variance)
    w1 = vae.weights(mean)[0][0]
    assert w1.std(0).mean() > 0.03 * vae.common_w1.std()  # seen: 0.083 and more; 1e-5


@torch.no_grad()
def test_numbers_of_a_latent_vector_tell_different_things():
    """Else most of a latent vector tells the decoder nothing new, and little of a picture."""
    torch.manual_seed(0)
    vae, pictures = VAENCA(ARCHITECTURES["vae-mnist"]), load_pictures("digits", 28, True).train[:400]
    before = torch.linalg.eigvalsh(vae.means(pictures).T.corrcoef())
    vae.standardize(pictures)
    after = torch.linalg.eigvalsh(vae.means(pictures).T.corrcoef())
    # Of 32 numbers that tell the same, one direction would have 32. Seen with three seeds: 7.7 and more, then 2.0.
    assert before[-1] > 5 and after[-1] < 2.5


@torch.no_grad()
def test_samples_are_spread_as_the_pictures_are(model, monkeypatch, tmp_path):
    seen, weights, pictures = [], model.weights, torch.rand(40, 1, 8, 8)
    monkeypatch.setattr(model, "weights", lambda z: seen.append(z) or weights(z))
    drawing.samples(model, pictures, 4000, tmp_path / "samples.png", steps=1)
    (z,), mean = seen, model.encode(pictures)[0]
    # Four standard errors of a mean, and of a variance or covariance: those of 4,000 normal numbers.
    assert ((z.mean(0) - mean.mean(0)).abs() < 4 * mean.std(0) / 4000**0.5).all()
    assert (z.T.cov() - mean.T.cov(correction=0)).norm() < 8 / 4000**0.5 * mean.T.cov().trace()
    drawing.samples(model, pictures[:1], 3, tmp_path / "one.png", steps=1)
    torch.testing.assert_close(seen[1], mean[:1].expand(3, -1))


def test_the_learning_rate_rises(tiny, tmp_path):
    """Over iterations done, in a run of minutes too, whose plan the first iterations may be a large share of."""
    train_vae(replace(CONFIG, warm_up=2), "digits", tmp_path, progress=False)
    rates = [line["learning_rate"] / CONFIG.learning_rate for line in logged(tmp_path)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 0.3, 0.3])  # the milestone is at 2


def test_pictures_that_are_all_alike_are_not_told_apart(model):
    before = model.encode(torch.ones(4, 1, 8, 8))[0]
    model.standardize(torch.ones(4, 1, 8, 8))
    after = model.encode(torch.ones(4, 1, 8, 8))[0]
    torch.testing.assert_close(after, before - before.mean(0))


def test_gradients_reach_everything(model):
    pictures = torch.rand(4, 1, 8, 8)
    losses = system.losses(CONFIG, model, pictures, torch.Generator().manual_seed(0), seed=5)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_start_is_one_living_cell(model):
    x = model.initial_state(2, 9, 12)
    assert x.shape == (2, 4, 9, 12) and x.sum() == 2 * 4 and (x[:, :, 4, 6] == 1).all()
    colour = VAENCA(replace(TINY, rule=Rule(**RGBA), grey=False))
    x = colour.initial_state(1)
    assert (x[0, :3] == 0).all() and (x[0, 3:, 4, 4] == 1).all()


RGBA = {"channels": 6, "hidden": (6,), "filters": ("identity",), "padding": "zero", "alive_channel": 3}


def test_colour_is_shown_over_white():
    colour = VAENCA(replace(TINY, rule=Rule(**RGBA), grey=False))
    states = torch.zeros(1, 6, 1, 3)
    states[0, :4, 0, 1] = torch.tensor([0.2, 0.4, 0.6, 1.0])
    states[0, :4, 0, 2] = torch.tensor([0.1, 0.1, 0.1, 0.5])
    want = torch.tensor([[1, 0.2, 0.6], [1, 0.4, 0.6], [1, 0.6, 0.6]])[None, :, None]
    torch.testing.assert_close(colour.to_rgb(states), want)
    assert torch.equal(colour.target(torch.zeros(1, 3, 2, 2))[0, 3], torch.ones(2, 2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"output_bias": True}, "must have one hidden layer with a bias, no output bias"),
        ({"frozen": 1}, "no frozen channels"),
        ({"alive_channel": 2}, "alive_channel must be 0, after the channels of colour, but got 2"),
        ({"alive_channel": None}, "alive_channel must be 0"),
    ],
)
def test_rules_that_do_not_fit(change, message):
    fields = {name: getattr(TINY.rule, name) for name in Rule.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        VAENCA(replace(TINY, rule=Rule(**fields | change)))


def test_pictures_of_another_size(model):
    with pytest.raises(ValueError, match=r"pictures must have shape \[B, 1, 8, 8\], but got \[2, 3, 8, 8\]"):
        model.encode(torch.zeros(2, 3, 8, 8))


def test_saved_models_come_back(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VAENCA.from_pretrained(tmp_path)
    assert again.architecture == TINY and not again.deterministic
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    checkpoint.save(tmp_path / "model.safetensors", {"x": torch.zeros(1)}, {"nca": {}})
    with pytest.raises(
        ValueError, match="must hold a VAE-NCA, but holds an automaton of one rule, and nca-fast render"
    ):
        VAENCA.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"iterations": 0}, "iterations must be at least 1, but got 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite"),
        ({"damage_radius": 0.0}, "damage_radius must be above 0"),
        ({"preset": "texture"}, "preset must be one of vae-mnist, vae-cifar, vae-face, but got 'texture'"),
        ({"warm_up": -1}, "warm_up must be at least 0"),
        ({"loss": "l1"}, "loss must be one of mse, bce"),
        ({"lr_milestones": (0,)}, "lr_milestones must be at least 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize("change", [{}, {"deterministic": True, "loss": "bce", "damage": 2}], ids=["vae", "published"])
def test_an_interrupted_run_ends_as_one_that_was_left_alone(tiny, tmp_path, change):
    config = replace(CONFIG, **change)
    whole = train_vae(config, "digits", tmp_path / "whole", progress=False)
    assert whole.iterations == 4 and whole.figures["test_error"] > 0 and 0.01 < whole.figures["mean_error"] < 0.2
    assert all(path.exists() for path in whole.files)
    train_vae(replace(config, iterations=2), "digits", tmp_path / "parts", progress=False)
    train_vae(config, None, tmp_path / "parts", resume=True, progress=False)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_the_smallest_folder_of_pictures(tiny, tmp_path):
    (tmp_path / "photos").mkdir()
    for n in range(5):
        save_image(torch.rand(3, 9, 9), tmp_path / "photos" / f"{n}.png")
    result = train_vae(replace(CONFIG, iterations=1), str(tmp_path / "photos"), tmp_path / "run", progress=False)
    assert all(path.exists() for path in result.files)


def test_resuming_refuses_other_pictures_and_settings(tiny, tmp_path):
    train_vae(replace(CONFIG, iterations=1), "digits", tmp_path, progress=False)
    with pytest.raises(ValueError, match="data set must be that of the run"):
        train_vae(CONFIG, "faces", tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match=r"beta \(was 1e-05, now 1.0\)"):
        train_vae(replace(CONFIG, beta=1.0), "digits", tmp_path, resume=True, progress=False)
    with pytest.raises(FileExistsError, match="must not hold another run"):
        train_vae(CONFIG, "digits", tmp_path, progress=False)


def test_without_a_data_set(tmp_path):
    with pytest.raises(ValueError, match="a data set must be given to begin a run"):
        train_vae(CONFIG, None, tmp_path, progress=False)


def test_training_learns(tiny, tmp_path):
    """Sixty iterations on one kind of picture: the error falls by a third."""
    (tmp_path / "squares").mkdir()
    picture = torch.zeros(3, 8, 8)
    picture[:, 2:6, 2:6] = 1
    for n in range(5):
        save_image(picture, tmp_path / "squares" / f"{n}.png")
    train_vae(
        replace(CONFIG, iterations=60, learning_rate=1e-2, warm_up=0), str(tmp_path / "squares"), tmp_path / "run"
    )
    errors = [line["mse"] for line in logged(tmp_path / "run")]
    first, last = (sum(part) / 3 for part in (errors[:3], errors[-3:]))
    assert last < first * 2 / 3


def test_damage_is_what_the_encoder_sees_alone(model, monkeypatch):
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda pictures: seen.append(pictures) or encode(pictures))
    batch = torch.ones(2, 1, 8, 8)
    system.losses(replace(CONFIG, damage=3), model, batch, torch.Generator().manual_seed(0), seed=1)
    assert (batch == 1).all() and set(seen[0].unique().tolist()) == {0.0, 1.0}


def test_commands(tiny, tmp_path, capsys):
    out = str(tmp_path / "run")
    short = ["--iterations", "2", "--batch-size", "2", "--threads", "1"]
    assert cli.main(["vae", "digits", "--out", out, *short]) == 0
    printed = capsys.readouterr().out
    for name in (
        "reconstructions.png",
        "samples.png",
        "growth.mp4",
        "model.safetensors",
        "of that of the mean picture: pictures are not told apart yet; train longer, such as --iterations 8\n",
    ):
        assert name in printed
    assert cli.main(["vae", "--out", out, "--resume", "--iterations", "3"]) == 0
    assert checkpoint.load_metadata(tmp_path / "run" / "training.safetensors")["iteration"] == 3
    where = ["--model", out, "--out", str(tmp_path / "a.png")]
    for command in (
        ["fuse", "digits:0", "digits:1"],
        ["repair", "digits:2", "--damage", "2"],
        ["outpaint", "digits:2", "--height", "9", "--width", "12"],
    ):
        assert cli.main(["vae", *command, *where]) == 0
        assert load_image(tmp_path / "a.png").ndim == 3
        (tmp_path / "a.png").unlink()
        proposed = capsys.readouterr().out.partition("next: nca-fast ")[2].splitlines()[0]
        assert cli.main(shlex.split(proposed.replace("--out ", f"--out {tmp_path}/"))) == 0
        capsys.readouterr()
    assert cli.main(["vae", "nowhere", "--out", str(tmp_path / "other")]) == 2
    assert "must be digits, faces or a folder, but there is none called 'nowhere'" in capsys.readouterr().err
    assert cli.main(["vae", "digits", "--out", out]) == 2
    assert "must not hold another run" in capsys.readouterr().err


def test_fusion_takes_turns(model):
    a, b = torch.rand(2, 1, 1, 8, 8)
    state, rules = model.initial_state(1), [model.weights(model.encode(p)[0]) for p in (a, b)]
    with torch.no_grad():
        for n in range(TINY.steps):
            state = model.grow(rules[n % 2], state=state, steps=1, first_step=n, seed=3)
        assert torch.equal(drawing.fused(model, a, b, seed=3), model.to_rgb(state)[0])


def test_outpainting_keeps_the_picture(model):
    picture = torch.rand(1, 1, 8, 8)
    larger = drawing.outpainted(model, picture, 12, 15)
    assert larger.shape == (3, 12, 15) and torch.equal(larger[0, 2:10, 3:11], picture[0, 0])
    with pytest.raises(ValueError, match="at least the 8 cells of the picture, but got 7, 15"):
        drawing.outpainted(model, picture, 7, 15)


def test_what_is_made_of_a_picture_stands_below_it(model, tmp_path, monkeypatch):
    """Also in a last row that is not full: once its reconstructions stood beside the pictures."""
    monkeypatch.setattr(drawing, "reconstructed", lambda vae, pictures: pictures.expand(-1, 3, -1, -1) / 2)
    pictures = torch.linspace(0.1, 1, 13)[:, None, None, None].expand(-1, 1, 8, 8)
    drawing.reconstructions(model, pictures, tmp_path / "a.png")
    seen = load_image(tmp_path / "a.png")[0]
    side = seen.shape[1] / drawing.COLUMNS
    cells = [[seen[int((row + 0.5) * side), int((n + 0.5) * side)].item() for n in range(12)] for row in range(4)]
    assert cells[0][3] == pytest.approx(2 * cells[1][3], abs=0.01)  # two roundings to a byte
    assert cells[2] == pytest.approx([1.0] * 12) and cells[3] == pytest.approx([0.5] + [1.0] * 11, abs=0.01)


def test_drawings_of_named_pictures(model, tmp_path):
    save_image(torch.rand(3, 20, 24), tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    drawing.draw_fusion(model, photo, "digits:3", tmp_path / "fused.png")
    assert load_image(tmp_path / "fused.png").shape == (3, 24, 5 * 24 + 4 * 6)
    drawing.draw_repair(model, "digits:0", 2, tmp_path / "repaired.png")
    assert load_image(tmp_path / "repaired.png").shape == (3, 24, 3 * 24 + 2 * 6)
    drawing.draw_outpainting(model, photo, 10, 16, tmp_path / "larger.png")
    assert load_image(tmp_path / "larger.png").shape == (3, 30, 48)
    with pytest.raises(ValueError, match="number of a test picture of digits must be from 0 to 358, but got 400"):
        drawing.named_picture(model, "digits:400")
    with pytest.raises(ValueError, match="damage must be from 0 to 1000"):
        drawing.draw_repair(model, photo, -1, tmp_path / "x.png")
    assert not Path(tmp_path / "x.png").exists()
