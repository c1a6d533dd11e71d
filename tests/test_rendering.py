"""Picture and film files: the right cells, the right size, and nothing at all after an interruption."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from triton_rollouts import DEVICE, small_programs

import nca_fast
from nca_fast import files
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.apply import apply
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.render import render


@pytest.fixture
def nca():
    torch.manual_seed(0)
    return nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,)), start="noise", init_gain=0.3)


def test_picture_shows_the_last_state(nca, tmp_path):
    scene = Scene(nca, 6, 10, 40, seed=2)
    picture(scene, tmp_path / "x.png", zoom=3)
    shown = load_image(tmp_path / "x.png")
    wanted = nca.to_rgb(render(scene))[0]
    assert shown.shape == (3, 18, 30)
    for offset in range(3):
        # A picture keeps 8 bits: half a level, and the rounding of that.
        torch.testing.assert_close(shown[:, offset::3, offset::3], wanted, rtol=0, atol=0.501 / 255)


def test_film_has_its_frames(nca, tmp_path):
    film(Scene(nca, 6, 10, 5), tmp_path / "x.gif", steps_per_frame=2, zoom=3, fps=20)
    with Image.open(tmp_path / "x.gif") as shown:
        assert shown.size == (30, 18)
        assert shown.n_frames == 3
        assert shown.info["duration"] == 50


@pytest.mark.parametrize("name", ["x.gif", "x.mp4"])
def test_interrupted_film_leaves_nothing(nca, tmp_path, monkeypatch, name):
    shown = []

    def to_rgb(state):
        if shown:
            raise KeyboardInterrupt
        shown.append(state)
        return state[:, :3].clamp(0, 1)

    monkeypatch.setattr(nca, "to_rgb", to_rgb)
    with pytest.raises(KeyboardInterrupt):
        film(Scene(nca, 6, 10, 2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw", [picture, film])
def test_zoom_must_be_positive(nca, tmp_path, draw):
    with pytest.raises(ValueError, match="zoom must be at least 1, but got 0"):
        draw(Scene(nca, 6, 10, 1), tmp_path / "x.gif", zoom=0)
    assert list(tmp_path.iterdir()) == []


def test_triton_renders_and_applies(tmp_path, monkeypatch):
    """By the interpreter where there is no GPU; the numbers are those of the reference, up to rounding."""
    small_programs(monkeypatch)
    rule = nca_fast.Rule(channels=4, hidden=(8,))
    painter, other = (nca_fast.NCA(rule, start="image", init_gain=0.3).to(DEVICE) for _ in range(2))
    other.save_pretrained(tmp_path / "other")
    image, map = torch.rand(3, 6, 8, device=DEVICE), str(tmp_path / "map.png")
    save_image(image, tmp_path / "a.png")
    save_image(torch.linspace(0, 1, 9).expand(3, 7, 9), tmp_path / "map.png")
    config = CanvasConfig(map=map, graft=(tmp_path / "other",), speed_map=map)
    states, shown = [], []
    for backend in ("triton", "reference"):
        how = {"backend": backend, "precision": "fp32"}
        states.append(render(Scene(painter, 6, 8, 1, image=image, config=config, **how)))
        assert states[-1].device == image.device
        apply(painter, tmp_path / "a.png", tmp_path / "b.png", 1, **how)
        shown.append(load_image(tmp_path / "b.png"))
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-6)  # sums in another order; worst seen 6e-8
    torch.testing.assert_close(*shown, rtol=0, atol=1.01 / 255)
    assert not torch.equal(shown[0], load_image(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["a.png", "a.dzi", "a.gif"])
def test_a_killed_rendering_leaves_its_halves_to_the_next(nca, tmp_path, name):
    suffix = Path(name).suffix
    tag = f"{files._MACHINE}0123abcd.tmp"
    half = [f".a.{tag}{suffix}", f".a.{tag}.html", f".state.{tag}.safetensors"]
    for file in half:
        (tmp_path / file).write_text("half")
    (tmp_path / f".a_files.{tag}").mkdir()
    draw = film if suffix == ".gif" else picture
    draw(Scene(nca, 8, 8, 2), tmp_path / name, save_state=tmp_path / "state.safetensors")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
