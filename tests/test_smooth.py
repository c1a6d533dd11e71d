"""Pictures whose colours go over into each other from cell to cell: the curve, its bits, its edges, films and maps."""

import numpy as np
import pytest
import torch

from nca_fast import NCA, Rule, cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.hexagons import on_grid
from nca_fast.media.images import load_image, load_with_alpha, to_uint8
from nca_fast.rendering import smooth
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.smooth import smoothed, smoothed_blocks


def automaton(padding="circular", maps=None):
    torch.manual_seed(0)
    rule = Rule(channels=7, hidden=(8,), padding=padding)
    return NCA(rule, start="noise", init_gain=0.3, maps=maps or {})


def cells(height, width):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def weights(count, zoom, wraps):
    """How much of each cell is in each pixel, by Keys's formula of 1981. float64 [count * zoom, count]"""
    found = np.zeros((count * zoom, count))
    for pixel in range(count * zoom):
        middle = (pixel + 0.5) / zoom - 0.5
        for cell in range(int(np.floor(middle)) - 1, int(np.floor(middle)) + 3):
            t = abs(middle - cell)
            weight = 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            found[pixel, cell % count if wraps else min(max(cell, 0), count - 1)] += weight
    return torch.from_numpy(found)


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize(("height", "width", "zoom"), [(5, 9, 4), (1, 2, 3), (6, 1, 8)])
def test_pixels_follow_the_formula(height, width, zoom, wraps):
    shown = smoothed(cells(height, width), zoom, wraps)
    by_rows, by_columns = weights(height, zoom, wraps), weights(width, zoom, wraps)
    expected = by_rows @ cells(height, width).double() @ by_columns.T
    torch.testing.assert_close(shown.double(), expected, rtol=0, atol=2e-6)  # float32; worst seen 5e-7


@pytest.mark.parametrize("zoom", [3, 4])
def test_a_torus_that_is_shifted_by_a_cell_is_a_picture_that_is(zoom):
    x = cells(7, 33)
    shown = smoothed(x.roll((1, -2), (1, 2)), zoom, True)
    assert torch.equal(shown, smoothed(x, zoom, True).roll((zoom, -2 * zoom), (1, 2)))
    twice = smoothed(x.repeat(1, 2, 2), zoom, True)
    assert torch.equal(twice, smoothed(x, zoom, True).repeat(1, 2, 2))


@pytest.mark.parametrize("padding", ["circular", "zero", "reflect"])
def test_blocks_of_any_size_are_the_whole(padding, tmp_path, monkeypatch):
    nca = automaton(padding)
    scene = Scene(nca, 31, 7, 4, seed=1)
    expected = nca.to_rgb(nca(nca.initial_state(1, 31, 7, seed=1), 4, seed=1).detach())[0]
    expected = smoothed(expected, 3, padding == "circular")
    with Canvas(scene, path=tmp_path / "y.png", plan=Plan(7, 2, 4, False, False)) as canvas:
        canvas.go()
        for rows, count in ((1, 30), (2, 16), (5, 8), (31, 2)):
            monkeypatch.setattr(smooth, "PIXELS", 7 * 9 * rows)
            blocks = list(smoothed_blocks(canvas, nca.to_rgb, 3))
            assert len(blocks) == count and torch.equal(torch.cat(blocks, 1), expected)


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_a_film_ends_with_the_picture(tmp_path, monkeypatch, padding):
    frames = []
    video = film.__globals__["VideoWriter"]
    original = video.add
    monkeypatch.setattr(video, "add", lambda self, frame: (frames.append(frame), original(self, frame))[1])
    scene = Scene(automaton(padding), 8, 6, 3, seed=1)
    film(scene, tmp_path / "x.gif", zoom=4, smooth=True)
    picture(scene, tmp_path / "x.png", zoom=4, smooth=True)
    picture(scene, tmp_path / "squares.png", zoom=4)
    shown, squares = load_image(tmp_path / "x.png"), load_image(tmp_path / "squares.png")
    assert len(frames) == 3 and np.array_equal(to_uint8(frames[-1]), to_uint8(shown))
    assert shown.shape == squares.shape and (shown - squares).abs().max() > 0.1


def test_how_opaque_a_picture_is_goes_over_too(tmp_path):
    alpha = cells(8, 6)[0].round()
    picture(Scene(automaton(), 8, 6, 3), tmp_path / "x.png", zoom=3, smooth=True, alpha=alpha)
    shown = load_with_alpha(tmp_path / "x.png")[1]
    expected = smoothed(alpha[None], 3, True)[0].clamp(0, 1)
    torch.testing.assert_close(shown, expected, rtol=0, atol=0.51 / 255)  # half a level


def test_maps_are_smooth_and_remain_what_they_are(tmp_path):
    nca = automaton(maps={"normal": 3, "height": 1})
    folder = tmp_path
    files = picture(Scene(nca, 8, 6, 3, seed=2), folder / "x.png", zoom=4, smooth=True)
    assert [load_image(file).shape for file in files] == [(3, 32, 24)] * 3
    state = nca(nca.initial_state(1, 8, 6, seed=2), 3, seed=2).detach()
    height = smoothed(nca.to_map(state, "height")[0], 4, True)
    assert float(height.min()) < 0 or float(height.max()) > 1  # where it is cut off, and does not begin anew
    shown = load_image(folder / "x_height.png")[:1]
    torch.testing.assert_close(shown, height.clamp(0, 1), rtol=0, atol=0.6 / 65535)
    normals = 2 * load_image(folder / "x_normal.png") - 1
    assert (normals.norm(dim=0) - 1).abs().max() < 0.01


@pytest.mark.parametrize("draw", [picture, film])
def test_there_must_be_something_to_smooth(tmp_path, draw):
    nca = automaton()
    with pytest.raises(ValueError, match="smooth must go with a zoom above 1, but got 1"):
        draw(Scene(nca, 6, 10, 1), tmp_path / "x.gif", smooth=True)
    with pytest.raises(ValueError, match="smooth must be left out on hexagons"):
        draw(Scene(on_grid(nca, "hex"), 6, 10, 1), tmp_path / "x.gif", zoom=4, smooth=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_smoothly(tmp_path, capsys):
    automaton().save_pretrained(tmp_path / "model")
    words = ["render", str(tmp_path / "model"), "--size", "8", "--steps", "2", "--out", str(tmp_path / "x.png")]
    assert cli.main([*words, "--smooth"]) == 2
    assert "smooth must go with a zoom above 1" in capsys.readouterr().err
    assert cli.main([*words, "--smooth", "--zoom", "3"]) == 0
    assert "--smooth" in capsys.readouterr().out.rpartition("next: ")[2]
    picture(Scene(automaton(), 8, 8, 2, seed=0), tmp_path / "y.png", zoom=3, smooth=True)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
