"""Canvases whose cells are turned and scaled: the same bits in strips, maps, and the commands."""

import math
from dataclasses import replace

import pytest
import torch

import nca_fast
from nca_fast import NCA, Rule, cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.turning import Turning
from nca_fast.frames import dipole, frame, polar, slowed
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.texture_settings import TEXTURE

SIZE = (23, 29)


def automaton(seed=1, start="noise", **rule):
    torch.manual_seed(seed)
    return NCA(Rule(channels=6, hidden=(8,), **rule), start=start, init_gain=0.3)


def scene(nca, **config):
    return Scene(nca, *SIZE, 6, seed=7, config=CanvasConfig(**config))


def rolled_out(nca, field, dt=1.0):
    rule, weights = slowed(nca.rule, nca.weights, dt)
    with torch.no_grad():
        return nca_fast.rollout(nca.initial_state(1, *SIZE, seed=7), weights, rule, 6, seed=7, frame=field)


@pytest.fixture
def maps(tmp_path):
    for name in ("angles", "scales"):
        save_image(torch.rand(1, 5, 7).expand(3, -1, -1), tmp_path / f"{name}.png")
    return {"angle_map": str(tmp_path / "angles.png"), "scale_map": str(tmp_path / "scales.png")}


def test_the_canvas_is_that_of_a_rollout():
    """Degrees are radians, an angle comes on top of an alignment, and a scale above 1 has its share of a step."""
    nca = automaton()
    assert torch.equal(render(scene(nca, angle=30.0)), rolled_out(nca, frame(math.radians(30.0))))
    assert torch.equal(render(scene(nca, align="polar")), rolled_out(nca, polar(*SIZE)))
    assert torch.equal(render(scene(nca, scale=0.5)), rolled_out(nca, frame(0.0, 0.5)))
    assert torch.equal(
        render(scene(nca, angle=200.0, scale=2.0)), rolled_out(nca, frame(math.radians(200.0), 2.0), 0.25)
    )
    assert torch.equal(render(scene(nca, scale=2.0, dt=0.125)), rolled_out(nca, frame(0.0, 2.0), 0.125))
    assert torch.equal(render(scene(nca, dt=0.5)), rolled_out(nca, None, 0.5))
    both = Turning(CanvasConfig(angle=90.0, align="dipole"), *SIZE).rows(0, SIZE[0])
    right, up = dipole(*SIZE)
    torch.testing.assert_close(both, torch.stack([-up, right]))


def test_strips_have_the_bits_of_the_whole(tmp_path, maps, monkeypatch):
    monkeypatch.setattr("nca_fast.canvas.turning.BLOCK", 100)  # of a few rows
    nca = automaton()
    own = scene(nca, angle=20.0, align="dipole", scale=0.8, **maps)
    with Canvas(own, path=tmp_path / "x", plan=Plan(5, 2, 2 * nca.rule.reach, False, False)) as canvas:
        canvas.go()
        assert torch.equal(canvas.state(), render(own))
    graft = automaton(2, padding="circular")
    graft.save_pretrained(tmp_path / "graft")
    shared = replace(own.config, graft=(tmp_path / "graft",), map=maps["scale_map"])
    own = replace(own, config=shared)
    with Canvas(own, path=tmp_path / "y", plan=Plan(5, 2, 2 * nca.rule.reach, True, False)) as canvas:
        canvas.go()
        assert torch.equal(canvas.state(), render(own))


def test_maps(maps):
    """A map of the canvas's size is taken as it is; between white and black nothing turns the long way round."""
    angles, scales = torch.rand(1, 4, 5).expand(3, -1, -1), torch.rand(1, 4, 5).expand(3, -1, -1)
    field = Turning(CanvasConfig(), 4, 5, angle_map=angles, scale_map=scales)
    torch.testing.assert_close(field.rows(0, 4), frame(2 * math.pi * angles[0], 2 ** (2 * scales[0] - 1)))
    assert math.isclose(field.stable_dt, min(1.0, float(2 ** (2 * scales[0] - 1).max()) ** -2), rel_tol=1e-6)
    step = torch.tensor([[0.95, 0.05]]).expand(3, 1, 2)  # 342 and 18 degrees
    between = Turning(CanvasConfig(), 1, 40, angle_map=step).rows(0, 1)
    assert (between[0] > 0.95).all() and between.square().sum(0).sub(1).abs().max() < 1e-6
    part = Turning(CanvasConfig(align="polar"), 9, 11, window=(5, 7)).rows(0, 5)
    assert torch.equal(part, Turning(CanvasConfig(align="polar"), 9, 11).rows(0, 9)[:, 2:7, 2:9])
    assert torch.equal(Turning(CanvasConfig(align="polar"), 9, 11).rows(7, 4), polar(9, 11)[:, [7, 8, 0, 1]])


@pytest.mark.parametrize("activation", ["identity", "identity/4", "tanh", "leaky_relu(0)/2", "hardtanh(3)"])
def test_a_share_of_a_step(activation):
    """Worst seen 1e-16."""
    rule = Rule(3, (6,), update_activation=activation, output_bias=True)
    weights = [(torch.randn(o, i).double(), torch.randn(o).double()) for o, i, _ in rule.layers]
    x = torch.randn(1, 3, 5, 6).double()
    whole = nca_fast.rollout(x, weights, rule, 1, seed=0, backend="reference") - x
    slow, own = slowed(rule, weights, 0.3)
    part = nca_fast.rollout(x, own, slow, 1, seed=0, backend="reference") - x
    torch.testing.assert_close(part, 0.3 * whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("config", "rule", "message"),
    [
        ({"scale": 0.0}, {}, "scale must be above 0 and at most 16, but got 0.0"),
        ({"dt": 1.5}, {}, "dt must be above 0 and at most 1, but got 1.5"),
        ({"angle": math.inf}, {}, "angle must be a number of degrees"),
        ({"align": "polar"}, {"filters": ("identity", "sobel_x")}, "of the rule's these are none: 'sobel_x'"),
        ({"dt": 0.5}, {"residual": False}, "dt must go with a rule whose update is added"),
    ],
)
def test_errors(config, rule, message):
    with pytest.raises(ValueError, match=message):
        render(scene(automaton(**rule), **config))


def test_commands(tmp_path, maps, capsys):
    """Options reach the canvas; a run that is resumed must have the same maps."""
    nca = automaton(start="zeros", output_bias=True)
    nca.save_pretrained(tmp_path / "run")
    out = tmp_path / "x.png"
    command = ["render", str(tmp_path / "run"), "--height", "23", "--width", "29", "--steps", "6", "--seed", "7"]
    options = ["--align", "polar", "--angle", "10", "--scale", "0.9", "--angle-map", maps["angle_map"]]
    assert cli.main([*command, *options, "--out", str(out)]) == 0
    config = {"align": "polar", "angle": 10.0, "scale": 0.9, "angle_map": maps["angle_map"]}
    want = nca.to_rgb(render(scene(nca, **config)))[0]
    assert (load_image(out) - want).abs().max() <= 0.51 / 255
    with Canvas(scene(nca, **config), path=out, resume=False) as canvas:
        before = canvas.journal.settings
    save_image(torch.rand(3, 5, 7), maps["angle_map"])
    with Canvas(scene(nca, **config), path=out, resume=False) as canvas:
        assert canvas.journal.settings != before


def test_the_recipe_of_noise():
    """Noise at the start, and all cells fire."""
    config = TEXTURE.recipes["noise"]
    nca = NCA.preset(config.preset)
    assert nca.start == "noise" and nca.rule.fire_rate == 1 and config.learning_rate < type(config)().learning_rate
