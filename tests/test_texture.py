"""What a texture training finds out by itself: the scale of a picture, whether it is grey, which features there are."""

import math
from dataclasses import replace

import pytest
import torch
from test_training import TINY

from nca_fast import NCA, checkpoint, features
from nca_fast.features.vgg import VGG, at_hand, cache_file
from nca_fast.media.images import load_image
from nca_fast.media.structure import is_grey
from nca_fast.systems.style_settings import StyleConfig
from nca_fast.systems.target import as_target, chosen_crop
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

QUICK = replace(TINY, iterations=2, lr_milestones=(1,), pool_size=2, disturb=1.0)


def waves(length, side=128):
    y = torch.arange(side)[:, None].expand(side, side)
    return (0.5 + 0.4 * torch.sin(2 * math.pi * y / length)).expand(3, -1, -1).contiguous()


def train(out, image, config=QUICK, **how):
    said = []
    run_training(Texture, TextureSources(image), out, config, progress=False, say=said.append, **how)
    return said


def test_a_period_of_the_picture_becomes_twelve_cells():
    # Waves of 8 pixels have their first minimum, over all directions, after 5: they count as 10.
    assert chosen_crop(waves(8), 16) == pytest.approx(10 * 16 / 12, abs=3)
    assert chosen_crop(waves(32), 16) == pytest.approx(40 * 16 / 12, abs=7)


def test_the_crop_stays_within_the_picture_and_does_not_enlarge():
    assert chosen_crop(waves(32, 48), 64) == 48  # no more than there is
    assert chosen_crop(waves(4), 64) == 64  # 64 cells for less would be larger than life
    ramp = torch.linspace(0, 1, 600).expand(3, 500, 600)  # nothing repeats: half of it, or 4 pixels a cell
    assert chosen_crop(ramp, 64) == 256
    assert chosen_crop(ramp, 16) == 250


def test_an_oblong_picture_gives_all_of_its_shorter_side():
    image = torch.rand(3, 40, 200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_target(image, 100, 100), image[:, :, 50:150])
    assert as_target(image, 160, 64).shape == (3, 16, 64)
    with pytest.raises(
        ValueError, match="at least 16 pixels high and wide when 200 .* it is 13 x 64. Choose a smaller"
    ):
        as_target(image, 200, 64)


def test_it_says_what_a_cell_sees_and_a_resumed_run_keeps_it(tmp_path):
    first = train(tmp_path, waves(32))
    crop = chosen_crop(waves(32), 16)
    assert first[0].startswith(f"one cell is {crop / 16:.3g} x {crop / 16:.3g} pixels of the picture")
    assert "learned from the picture itself" in first[1] and str(cache_file("vgg16")) in first[1]
    stored = checkpoint.load_metadata(tmp_path / "training.safetensors")["config"]
    assert (stored["image_crop"], stored["features"], stored["loss"]) == (crop, "dictionary", "w2")
    # Whoever resumes by the command line gives the defaults: None and auto mean "as before".
    assert train(tmp_path, None, replace(QUICK, iterations=3), resume=True) == first
    with pytest.raises(ValueError, match="features \\(was 'dictionary', now 'random'\\)"):
        train(tmp_path, None, replace(QUICK, features="random"), resume=True)


def test_a_grey_picture_makes_an_automaton_that_draws_grey_to_the_bit(tmp_path):
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1).contiguous()
    said = train(tmp_path, image, replace(QUICK, iterations=8, pool_size=4, batch_size=2))
    assert said[0].endswith("it is grey, and so is all that it will draw")
    nca = NCA.from_pretrained(tmp_path)
    rows = nca.layers[-1].weight[:3]
    assert rows.abs().max() > 0 and torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
    pool = checkpoint.load(tmp_path / "training.safetensors")[0]["pool"]  # no disturbance left colours that stay
    assert pool.std() > 0.01
    for colour in (1, 2):  # a mean of three is rounded: 6e-8
        torch.testing.assert_close(pool[:, colour], pool[:, 0], rtol=0, atol=1e-6)
    rgb = nca.to_rgb(nca(nca.initial_state(1, 24, 40), steps=20, seed=0))[0]
    assert rgb.std() > 0.01 and torch.equal(rgb[0], rgb[1]) and torch.equal(rgb[0], rgb[2])


def test_the_canvas_has_three_quarters_of_what_is_learned(tmp_path):
    assert TextureConfig().resolved().canvas_size == 48
    train(tmp_path, waves(8, 24), replace(QUICK, image_size=24, canvas_size=20, iterations=1))
    tensors = checkpoint.load(tmp_path / "training.safetensors")[0]
    assert tensors["pool"].shape[2:] == (20, 20) and tensors["target"].shape == (3, 24, 24)
    assert load_image(tmp_path / "texture.png").shape == (3, 96, 96)


def test_what_is_grey():
    grey = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)
    assert is_grey(grey)
    assert not is_grey(grey + torch.tensor([0.0, 0.0, 3 / 255])[:, None, None])


def fake_cache(monkeypatch, tmp_path):
    """VGG-16 with weights of no use where torchvision keeps those of use."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = cache_file("vgg16")
    path.parent.mkdir()
    channels, state = 3, {}
    for index, width in ((0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256)):
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        state[f"features.{index}.bias"] = torch.zeros(width)
        channels = width
    for index, width in ((17, 512), (19, 512), (21, 512), (24, 512)):
        state[f"features.{index}.weight"] = torch.zeros(1).expand(width, channels, 3, 3)
        state[f"features.{index}.bias"] = torch.zeros(width)
        channels = width
    torch.save(state, path)
    return path


def test_auto_takes_vgg16_where_its_weights_are_at_hand(tmp_path, monkeypatch):
    assert TextureConfig().resolved().features == "dictionary" and StyleConfig().resolved().features == "dictionary"
    fake_cache(monkeypatch, tmp_path)
    config = TextureConfig().resolved()
    assert (config.features, config.loss) == ("vgg16", "ot")
    assert TextureConfig(loss="gram").resolved().loss == "gram"
    assert isinstance(features.load(config.features), VGG)
    assert features.said("vgg16") == "features: vgg16, trained on ImageNet"


def test_auto_takes_vgg16_where_its_weights_are_given():
    assert TextureConfig(weights="vgg.pth").resolved().features == "vgg16"


def test_the_names_of_the_files_are_those_of_torchvision():
    from nca_fast.features.torchvision_compat import import_torchvision

    models = import_torchvision().models
    for name in ("vgg16", "vgg19"):
        url = getattr(models, f"{name.upper()}_Weights").IMAGENET1K_V1.url
        assert url.endswith(f"/{cache_file(name).name}")


def test_without_torchvision_there_is_no_vgg(tmp_path, monkeypatch):
    fake_cache(monkeypatch, tmp_path)
    assert at_hand("vgg16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not at_hand("vgg16")
