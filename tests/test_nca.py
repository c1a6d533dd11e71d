"""The layer: presets, start states, read-out, saving, and weights of other projects."""

import copy
import io

import pytest
import torch
from rollouts import random_weights
from test_reference import distill_step
from torch.testing import assert_close

from nca_fast import NCA, Rule, convert, fire_mask, rollout


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("texture", 5856),
        ("clip", 7808),
        ("strokes", 7501),
        ("style", 17745),
        ("style-two-filters", 20985),
        ("image-manipulation", 16125),
    ],
)
def test_presets_have_their_parameter_counts(name, parameters):
    nca = NCA.preset(name)
    assert sum(p.numel() for p in nca.parameters()) == parameters
    image = torch.rand(3, 9, 8) if nca.start == "image" else None
    x = nca.initial_state(2, 9, 8, image=image)
    y = nca(x, 2)
    assert y.shape == x.shape and y.isfinite().all()
    assert torch.equal(y, x) == name.startswith(("texture", "clip", "strokes"))  # these start with a zero last layer
    assert torch.equal(y[:, : nca.rule.frozen], x[:, : nca.rule.frozen])


def test_forward_is_rollout():
    nca = NCA(Rule(channels=4, hidden=(6,)), init_gain=1.0)
    x = torch.randn(1, 4, 7, 8)
    rate = torch.rand(7, 8)
    options = {"seed": 3, "first_step": 2, "origin": (1, 2), "first_sample": 1, "fire_rate": rate}
    assert torch.equal(nca(x, 3, **options), rollout(x, nca.weights, nca.rule, 3, **options))


def test_noise_start_is_scaled_per_cell():
    """System 1's start state: in every cell the smallest channel is 0 and the largest is 1."""
    x = NCA.preset("clip").initial_state(2, 5, 6, seed=1)
    assert (x.amin(1) == 0).all() and (x.amax(1) == 1).all()
    assert torch.equal(x, NCA.preset("clip").initial_state(2, 5, 6, seed=1))
    assert not torch.equal(x, NCA.preset("clip").initial_state(2, 5, 6, seed=2))


def test_image_start():
    nca = NCA.preset("style")
    image = torch.rand(2, 3, 5, 6)
    x = nca.initial_state(2, 5, 6, image=image)
    assert torch.equal(x[:, :3], image - 0.5) and torch.equal(x[:, 3:6], image - 0.5)
    assert x[:, 6:].abs().max() <= 0.5 and x[:, 6:].std() > 0.2
    assert_close(nca.to_rgb(x), image, rtol=0, atol=1e-7)  # - 0.5 + 0.5 rounds


def test_read_out():
    nca = NCA.preset("texture")
    x = torch.linspace(-1, 1, 12).reshape(1, 12, 1, 1)
    assert_close(nca.to_rgb(x, clamp=False), x[:, :3] + 0.5)
    assert nca.to_rgb(x).min() == 0
    with pytest.raises(ValueError, match="at least 3 channels, but the rule has 2"):
        NCA(Rule(channels=2, hidden=(3,))).to_rgb(torch.zeros(1, 2, 3, 3))
    for shape in ((5, 3, 3), (2, 1, 5, 3, 3), (1, 4, 3, 3)):
        with pytest.raises(ValueError, match=r"x must be states \[B, 5, H, W\], but got .*: show one state as x"):
            NCA(Rule(channels=5, hidden=(3,))).to_rgb(torch.zeros(shape))


def distill_to_rgb(x):
    """`to_rgb` of the notebook of "Growing Neural Cellular Automata", channels second."""
    rgb, alpha = x[:, :3], x[:, 3:4].clip(0.0, 1.0)
    return 1.0 - alpha + rgb


def test_read_out_over_white_is_the_notebooks():
    """An alpha of 1.2 showed 0.3 for a red of 0.5."""
    nca, x = NCA.preset("growing"), torch.randn(2, 16, 5, 6)
    assert torch.equal(nca.to_rgb(x, clamp=False), distill_to_rgb(x))
    x[0, :4, 0, 0] = torch.tensor([0.5, 0.25, 1.0, 1.2])
    assert nca.to_rgb(x)[0, :, 0, 0].tolist() == [0.5, 0.25, 1.0]
    x[0, :4, 0, 0] = torch.tensor([0.0, -0.1, 0.1, -0.3])
    assert_close(nca.to_rgb(x)[0, :, 0, 0], torch.tensor([1.0, 0.9, 1.0]))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: NCA.preset("textures"), ValueError, "preset must be one of texture, clip"),
        (lambda: NCA("texture"), TypeError, "rule must be an nca_fast.Rule"),
        (lambda: NCA(rgb_channel=10), ValueError, "rgb_channel must be from 0 to 9, but got 10"),
        (lambda: NCA(start="seed"), ValueError, "start must be one of"),
        (lambda: NCA(Rule(frozen=2), start="image"), ValueError, "0 or 3 frozen"),
        (lambda: NCA().initial_state(1, -4, 4), ValueError, "height must be at least 1, but got -4"),
        (lambda: NCA().initial_state(1, 4, 4.0), TypeError, "width must be an integer, but got 4.0"),
        (lambda: NCA().initial_state(1, 4, 4, image=torch.zeros(3, 4, 4)), ValueError, "exactly when start is 'image'"),
        (lambda: NCA.preset("style").initial_state(1, 4, 4), ValueError, "exactly when start is 'image'"),
        (
            lambda: NCA.preset("style").initial_state(1, 4, 4, image=torch.zeros(3, 5, 4)),
            ValueError,
            r"image must have shape \[3, 4, 4\]",
        ),
        (lambda: NCA.from_config({"rule": ""}), ValueError, "config must have the keys"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def trained(preset="style"):
    nca = NCA.preset(preset)
    for p in nca.parameters():
        torch.nn.init.normal_(p, 0, 0.1)
    return nca


def test_save_and_load(tmp_path):
    nca = trained()
    file = nca.save_pretrained(tmp_path / "model", provenance={"how": "by hand"})
    for name in (tmp_path / "model", str(tmp_path / "model"), file):
        again = NCA.from_pretrained(name)
        assert again.config() == nca.config()
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), nca.parameters(), strict=True))
    assert file.stat().st_size < 88 * 1024


def test_bad_model_files(tmp_path):
    file = trained("texture").save_pretrained(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        NCA.from_pretrained(tmp_path)
    file.write_text("weights")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        NCA.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="must exist"):
        NCA.from_pretrained(tmp_path / "nothing.safetensors")
    broken = trained("texture")
    with torch.no_grad():
        broken.layers[0].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="must be finite"):
        broken.save_pretrained(tmp_path / "b")


def test_module_habits():
    """Copies, pickles, moves and trains as any module does."""
    nca = trained("texture")
    x = torch.randn(1, 12, 6, 6)
    want = nca(x, 2, seed=0)
    assert torch.equal(copy.deepcopy(nca)(x, 2, seed=0), want)
    buffer = io.BytesIO()
    torch.save(nca, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x, 2, seed=0), want)
    assert nca.double()(x.double(), 2).dtype == torch.float64
    assert set(nca.state_dict()) == {"layers.0.weight", "layers.0.bias", "layers.1.weight"}


def test_weights_of_the_distill_notebook():
    hidden, channels = 10, 5
    state_dict = {
        "w1.weight": torch.randn(hidden, 4 * channels, 1, 1),
        "w1.bias": torch.randn(hidden),
        "w2.weight": torch.randn(channels, hidden, 1, 1) * 0.1,
    }
    nca = convert.from_distill(state_dict, fire_rate=0.4)
    x = torch.randn(2, channels, 8, 9)
    mask = fire_mask(6, 0, 2, 8, 9, 0.4)
    want = distill_step(x, state_dict["w1.weight"], state_dict["w1.bias"], state_dict["w2.weight"], mask)
    assert_close(nca(x, 1, seed=6), want, rtol=1e-5, atol=1e-5)  # float32 sums in another order; worst seen 2.9e-6


def test_bad_distill_weights():
    good = {"w1.weight": torch.zeros(6, 8, 1, 1), "w1.bias": torch.zeros(6), "w2.weight": torch.zeros(2, 6, 1, 1)}
    convert.from_distill(good)
    with pytest.raises(ValueError, match="state_dict must have the keys"):
        convert.from_distill({"w1.weight": good["w1.weight"]})
    with pytest.raises(ValueError, match="state_dict must have the shapes"):
        convert.from_distill(good | {"w2.weight": torch.zeros(3, 6, 1, 1)})


def test_learns():
    """A rollout is worth training: the layer fits the mean of a target, which it cannot at the start."""
    nca = NCA(Rule(channels=4, hidden=(16,)))
    optimizer = torch.optim.Adam(nca.parameters(), 1e-2)
    weights = random_weights(nca.rule)
    x = torch.randn(2, 4, 12, 12)
    target = rollout(x, weights, nca.rule, 2, seed=0)
    losses = []
    for n in range(60):
        loss = (nca(x, 2, seed=n) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
