"""Hexagons: where cells lie, automata that move between grids, pictures and films of them, and trainings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import TINY

from nca_fast import NCA, Rule, cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.commands import render
from nca_fast.hexagons import ROW, draws_hexagons, grid_of, levelled, on_grid, training_size
from nca_fast.media.images import load_image, save_image, to_uint8
from nca_fast.rendering import hexagons
from nca_fast.rendering import picture as pictures
from nca_fast.rendering.film import film
from nca_fast.rendering.hexagons import Hexagons
from nca_fast.rendering.picture import picture
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training


@pytest.fixture
def nca():
    torch.manual_seed(3)
    return NCA(Rule(channels=6, hidden=(8,), fire_rate=1.0), start="noise", init_gain=0.5)


def middles(height, width):
    """x and y of the middles of all cells, in distances of neighbours."""
    row, column = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return column + row / 2 + 0.5, (row + 0.5) * ROW


# Where cells lie


def test_six_neighbours_are_at_distance_1_and_the_stencils_look_at_them_alone():
    x, y = middles(3, 3)
    distance = torch.hypot(x - x[1, 1], y - y[1, 1])
    near = (distance - 1).abs() < 1e-9
    assert near.sum() == 6
    for name in ("hex_sobel_x", "hex_sobel_y", "hex_laplacian"):
        (filter,) = Rule(filters=(name,)).filters
        taps = torch.tensor(filter.taps)
        assert (taps[~near & (distance > 0)] == 0).all() and float(taps.sum()) == 0
    along = torch.tensor(Rule(filters=("hex_sobel_x",)).filters[0].taps)
    down = torch.tensor(Rule(filters=("hex_sobel_y",)).filters[0].taps)
    assert float((along * x).sum()) > 5 and abs(float((along * y).sum())) < 1e-6
    assert float((down * y).sum()) > 5 and abs(float((down * x).sum())) < 1e-6


def test_a_place_is_in_the_cell_whose_middle_is_nearest():
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(500, 2, generator=generator, dtype=torch.float64) * 6 + 2  # x, y
    row = places[:, 1] / ROW - 0.5
    found = hexagons._nearest(row, places[:, 0] - 0.5 - row / 2)
    x, y = middles(40, 40)
    x = x - 20  # so that some lie to the left of all places
    distance = torch.hypot(places[:, 0, None] - x.flatten(), places[:, 1, None] - y.flatten())
    best = distance.argmin(1)
    assert torch.equal(found[0], best // 40) and torch.equal(found[1], best % 40 - 20)


def test_a_wave_is_level_where_it_is_on_hexagons():
    """What waves along x and along y are like on squares; the canvas is a tile, so that both go around."""
    height, width = 48, 24
    x, y = middles(height, width)
    across = torch.sin(2 * math.pi * x / 12)
    along = torch.sin(2 * math.pi * y / (height * ROW) * 3)
    level = levelled(torch.stack([across, along])[None].float())[0]
    rows = round(height * ROW)
    assert level.shape == (2, rows, width)
    columns = torch.arange(width) + 0.5
    lines = (torch.arange(rows) + 0.5) * (height * ROW / rows)
    assert (level[0] - torch.sin(2 * math.pi * columns / 12)).abs().max() < 0.02
    assert (level[1] - torch.sin(2 * math.pi * lines / (height * ROW) * 3)[:, None]).abs().max() < 0.02


def test_a_level_picture_has_a_gradient_for_every_cell():
    x = torch.rand(1, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(levelled, x)
    levelled(x).sum().backward()
    assert torch.allclose(x.grad.sum((2, 3)), torch.full((1, 2), 2.0 * round(4 * ROW), dtype=torch.float64))


@pytest.mark.parametrize("cells", [16, 48, 100])
def test_a_training_canvas_is_a_tile_of_as_many_cells(cells):
    height, width = training_size(cells)
    assert height % (2 * width) == 0 and width % 8 == 0 and width >= 16
    assert cells < 30 or 0.7 < height * width / cells**2 < 1.4


# Automata


def test_an_automaton_moves_to_hexagons_and_back_with_its_weights(nca):
    there = on_grid(nca, "hex")
    assert grid_of(nca.rule) == "square" and grid_of(there.rule) == "hex" and draws_hexagons(there)
    names = [filter.name for filter in there.rule.filters]
    assert names == ["identity", "hex_sobel_x", "hex_sobel_y", "hex_laplacian"]
    assert all(torch.equal(a, b) for a, b in zip(nca.parameters(), there.parameters(), strict=True))
    assert on_grid(there, "square").rule == nca.rule and on_grid(nca, None) is nca and on_grid(there, "hex") is there
    eighth = NCA(Rule(filters=("identity", "sobel_x/8")))
    assert on_grid(eighth, "hex").rule.filters[1].scale == 1 / 8
    for rule in (Rule(filters=("identity", "scharr_x")), Rule(learned_filters=1), Rule(alive_channel=3)):
        with pytest.raises(ValueError, match="of which there is no other"):
            on_grid(NCA(rule), "hex")
    with pytest.raises(ValueError, match="grid must be one of square, hex"):
        on_grid(nca, "triangle")


# Pictures


def test_a_picture_shows_each_cell_in_its_colour_where_it_lies(nca, tmp_path):
    there, zoom, height, width = on_grid(nca, "hex"), 9, 8, 5
    scene = Scene(there, height, width, 2, seed=1)
    picture(scene, tmp_path / "x.png", zoom=zoom)
    shown = load_image(tmp_path / "x.png")
    assert shown.shape == (3, round(height * ROW * zoom), width * zoom)
    colors = there.to_rgb(there(there.initial_state(1, height, width, seed=1), 2, seed=1))[0].detach()
    x, y = middles(height, width)
    rows, columns = (y * zoom).long(), (x * zoom).long() % (width * zoom)
    assert (shown[:, rows, columns] - colors).abs().max() < 0.51 / 255
    exact = (shown[:, :, :, None] - colors.flatten(1)[:, None, None]).abs().amax(0).amin(-1) < 0.51 / 255
    assert 0.4 < float(exact.float().mean()) < 0.9  # the others lie on edges


def test_edges_are_smooth_and_mixed_in_linear_light():
    half = Hexagons(2, 2, 12)
    cells = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    shown = half.whole(cells.expand(3, -1, -1))
    linear = half.whole(cells, light=False)
    assert float(linear.mean()) == pytest.approx(1 / 4, abs=0.01)
    edge = (linear[0] - 0.5).abs() < 1e-6
    assert edge.any() and torch.allclose(shown[0][edge], torch.tensor(0.7354), atol=1e-3)


def test_a_tile_of_hexagons_goes_on_at_its_edges():
    """Four tiles as one canvas look like one laid four times, where the height is twice the width."""
    cells = torch.rand(3, 8, 4, generator=torch.Generator().manual_seed(0))
    one, four = Hexagons(8, 4, 14), Hexagons(16, 8, 14)
    small, large = one.whole(cells), four.whole(cells.repeat(1, 2, 2))
    assert four.size == (2 * one.size[0], 2 * one.size[1])  # 14 * 8 * sqrt(3) / 2 is 97 but for a hundredth
    down, right = one.size[0] // 2, one.size[1] // 2
    window = large[:, down : down + one.size[0], right : right + one.size[1]]
    assert np.array_equal(to_uint8(window), to_uint8(small.roll((-down, -right), (1, 2))))


def test_canvases_in_strips_are_drawn_as_those_in_one_piece(nca, tmp_path, monkeypatch):
    there = on_grid(nca, "hex")
    scene = Scene(there, 30, 7, 4, seed=1)
    picture(scene, tmp_path / "x.png", zoom=3)
    monkeypatch.setattr(hexagons, "PIXELS", 21 * 4 * 5)
    with Canvas(scene, path=tmp_path / "y.png", plan=Plan(7, 2, 4, False, False)) as canvas:
        canvas.go()
        blocks = list(hexagons.hexagon_blocks(canvas, there.to_rgb, 3))
    assert len(blocks) > 10
    assert (torch.cat(blocks, 1) - load_image(tmp_path / "x.png")).abs().max() < 0.51 / 255


def test_a_film_ends_with_the_picture(nca, tmp_path):
    there = on_grid(nca, "hex")
    scene = Scene(there, 8, 6, 3, seed=1)
    frames = []
    original = film.__globals__["VideoWriter"].add
    film.__globals__["VideoWriter"].add = lambda self, frame: (frames.append(frame), original(self, frame))[1]
    try:
        film(scene, tmp_path / "x.gif", zoom=5)
    finally:
        film.__globals__["VideoWriter"].add = original
    picture(scene, tmp_path / "x.png", zoom=5)
    assert len(frames) == 3 and (frames[-1] - load_image(tmp_path / "x.png")).abs().max() < 0.51 / 255


def test_maps_are_drawn_as_hexagons_too(tmp_path):
    torch.manual_seed(0)
    nca = NCA(Rule(channels=7, hidden=(8,)), start="noise", init_gain=0.5, maps={"normal": 3, "height": 1})
    files = picture(Scene(on_grid(nca, "hex"), 8, 6, 3), tmp_path / "x.png", zoom=5)
    assert [load_image(file).shape for file in files] == [(3, round(8 * ROW * 5), 30)] * 3
    normals = 2 * load_image(tmp_path / "x_normal.png") - 1
    assert (normals.norm(dim=0) - 1).abs().max() < 0.01


def test_automata_to_graft_move_to_the_grid_of_the_first(nca, tmp_path):
    save_image(torch.ones(3, 2, 2), tmp_path / "white.png")
    other = NCA(nca.rule, start="noise", init_gain=0.3)
    other.save_pretrained(tmp_path / "other")
    config = CanvasConfig(graft=(tmp_path / "other",), map=str(tmp_path / "white.png"))
    with Canvas(Scene(on_grid(nca, "hex"), 8, 6, 3, seed=1, config=config)) as canvas:
        canvas.go()
        state = canvas.state()
    expected = on_grid(other, "hex")
    assert torch.equal(state, expected(expected.initial_state(1, 8, 6, seed=1), 3, seed=1))


# Commands and trainings


def test_the_command_draws_hexagons_and_refuses_what_is_laid_over_squares(nca, tmp_path, capsys):
    model, out = nca.save_pretrained(tmp_path / "model"), tmp_path / "x.png"
    words = ["render", str(model), "--height", "8", "--width", "6", "--steps", "2", "--grid", "hex"]
    assert cli.main([*words, "--zoom", "4", "--out", str(out)]) == 0
    assert load_image(out).shape == (3, round(8 * ROW * 4), 24)
    capsys.readouterr()
    assert cli.main([*words, "--speed-map", str(out), "--out", str(out)]) == 2
    assert "--speed-map must be left out on hexagons" in capsys.readouterr().err
    assert cli.main([*words[:1], "zoo:etching", *words[2:], "--out", str(out)]) == 2


@pytest.mark.parametrize(
    ("size", "grid", "expected"),
    [("12", "square", (12, 12)), ("9x12", "square", (9, 12)), ("tile", "square", (16, 16)), ("tile", "hex", (16, 8))],
)
def test_a_size_in_a_word(nca, tmp_path, monkeypatch, size, grid, expected):
    monkeypatch.setattr(render, "TILE", 16)
    seen = []
    monkeypatch.setattr(pictures, "picture", lambda scene, *args, **how: seen.append((scene.height, scene.width)) or [])
    words = ["render", str(nca.save_pretrained(tmp_path / "model")), "--steps", "1", "--out", str(tmp_path / "x.png")]
    assert cli.main([*words, "--size", size, "--grid", grid]) == 0 and seen == [expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--size 0", "size must be a number of cells"),
        ("--size 3x", "size must be a number of cells"),
        ("--size tiles", "size must be a number of cells"),
        ("--size 3 --height 4", "height and width must be left out where size says them"),
    ],
)
def test_what_is_no_size_is_refused(nca, tmp_path, capsys, words, message):
    model = str(nca.save_pretrained(tmp_path / "model"))
    assert cli.main(["render", model, "--steps", "1", "--out", str(tmp_path / "x.png"), *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_training_on_hexagons(tmp_path):
    save_image(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)), tmp_path / "a.png")
    config = replace(TINY, grid="hex", iterations=2, preview_every=1)
    result = run_training(Texture, TextureSources(str(tmp_path / "a.png")), tmp_path / "run", config, progress=False)
    nca = NCA.from_pretrained(tmp_path / "run")
    assert grid_of(nca.rule) == "hex" and grid_of(result.model.rule) == "hex"
    height, width = training_size(config.resolved().canvas_size)
    assert load_image(tmp_path / "run" / "texture.png").shape == (3, round(4 * height * ROW * 6), 4 * width * 6)
    assert cli.main(["score", str(tmp_path / "run"), "--reference", str(tmp_path / "a.png"), "--seeds", "1"]) == 2
    with pytest.raises(ValueError, match="grid must be one of square, hex"):
        TextureConfig(grid="triangle")


def test_a_texture_on_hexagons_is_measured_level(nca, tmp_path, monkeypatch):

    from nca_fast.commands import measure
    from nca_fast.commands.score import ScoreCommand

    there = on_grid(nca, "hex")
    facts = {"system": "texture", "config": {"image_size": 40, "picture_steps": 2, "image_crop": 40}}
    there.save_pretrained(tmp_path / "run", facts | {"image": "skimage:brick"})
    seen = []
    monkeypatch.setattr(measure, "score", lambda pictures, original, weights: seen.extend(pictures))
    measure.measured(ScoreCommand(str(tmp_path / "run"), seeds=1, side=48, shrink=8))
    state = there(there.initial_state(1, 48, 48, seed=0), 2, seed=0)
    assert torch.allclose(seen[0], levelled(there.to_rgb(state)).clamp(0, 1)[0], atol=1e-6)
    assert seen[0].shape == (3, round(48 * ROW), 48)
