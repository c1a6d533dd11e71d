"""Maps: where which automaton lives, and how fast; the same bits in strips, and its own where an automaton is alone."""

import pytest
import torch

import nca_fast
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.colony import Colony
from nca_fast.canvas.maps import Map, add, shares
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.images import save_image
from nca_fast.rendering.render import render


def automaton(seed: int, **rule) -> nca_fast.NCA:
    torch.manual_seed(seed)
    return nca_fast.NCA(nca_fast.Rule(channels=6, hidden=(8,), **rule), start="noise", init_gain=0.3)


def grey(values) -> torch.Tensor:
    """A picture [3, h, w] of grey values."""
    return torch.as_tensor(values, dtype=torch.float32).expand(3, -1, -1)


def test_a_map_of_the_size_of_the_canvas_is_taken_as_it_is():
    picture = torch.rand(1, 7, 5).expand(3, -1, -1)
    map = Map(picture, 7, 5)
    # A mean of three equal numbers may round.
    torch.testing.assert_close(map.rows(torch.arange(7)), picture[0], rtol=1e-6, atol=0)


def test_a_map_is_stretched_with_linear_interpolation():
    picture = torch.rand(3, 3, 4)
    expected = torch.nn.functional.interpolate(picture.mean(0)[None, None], (17, 10), mode="bilinear")[0, 0]
    map = Map(picture, 17, 10)
    torch.testing.assert_close(map.rows(torch.arange(17)), expected)  # float32 rounding of the same formula
    window = Map(picture, 17, 10, window=(7, 4))
    assert torch.equal(window.rows(torch.arange(7)), map.rows(torch.arange(5, 12))[:, 3:7])


def test_rows_of_a_map_do_not_depend_on_those_beside_them():
    map = Map(torch.rand(3, 30, 40), 33, 1001)
    rows = map.rows(torch.arange(33))
    assert torch.equal(map.rows(torch.tensor([30, 4])), rows[[30, 4]])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_greys_name_automata_and_blends(count):
    names = torch.round(torch.arange(count) * 255 / (count - 1)) / 255  # as 8-bit pictures hold them
    parts = torch.stack(shares(names[None], count))
    assert torch.equal(parts[:, 0], torch.eye(count))
    parts = torch.stack(shares(torch.rand(5, 6), count))
    assert torch.equal(parts.sum(0), torch.ones(5, 6))
    assert ((parts > 0).sum(0) <= 2).all()


def test_nothing_is_added_where_there_is_no_share():
    state = torch.tensor([torch.nan, torch.inf, 3.0, 4.0]).view(1, 1, 1, 4)
    total = torch.ones(1, 1, 1, 4)
    add(state, torch.tensor([[0.0, 0.0, 0.5, 1.0]]), total)
    assert total.flatten().tolist() == [1, 1, 2.5, 4]


@torch.no_grad()
def test_a_step_of_several_is_the_blend_of_their_steps():
    ncas = [automaton(1), automaton(2, filters=("identity", "sobel_x")), automaton(3, fire_rate=1.0)]
    values = torch.rand(1, 9, 8)
    colony = Colony(Scene(ncas[0], 9, 8, 1, seed=7), ncas[1:], map=values.expand(3, -1, -1))
    x = ncas[0].initial_state(1, 9, 8, seed=1)
    parts = shares(colony.map.rows(torch.arange(9)), 3)
    expected = x
    for step in (4, 5):
        expected = sum(part * nca(expected, 1, seed=7, first_step=step) for nca, part in zip(ncas, parts, strict=True))
    got, _ = colony.advance(x.clone(), torch.empty_like(x), 0, 4, 2)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # order of the sum


@torch.no_grad()
def test_far_from_a_border_every_automaton_is_as_alone(tmp_path):
    ncas = [automaton(1), automaton(2)]
    save_image(grey([[0.0] * 16 + [1.0] * 16] * 8), tmp_path / "map.png")
    ncas[1].save_pretrained(tmp_path / "second")
    config = CanvasConfig(map=str(tmp_path / "map.png"), graft=(tmp_path / "second",))
    state = render(Scene(ncas[0], 8, 32, 3, seed=7, config=config))
    start = ncas[0].initial_state(1, 8, 32, seed=7)
    assert torch.equal(state[..., 3:13], ncas[0](start, 3, seed=7)[..., 3:13])
    assert torch.equal(state[..., 19:29], ncas[1](start, 3, seed=7)[..., 19:29])
    assert not torch.equal(state[..., 13:19], ncas[0](start, 3, seed=7)[..., 13:19])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("strip_rows", [1, 5, 40])
def test_maps_in_strips_are_the_canvas_in_one_piece(tmp_path, strip_rows, in_memory):
    """Some strips hold one automaton alone, others two, and of three one reaches further than the others."""
    five = tuple(tuple(1 / 25 for _ in range(5)) for _ in range(5))
    ncas = [automaton(1), automaton(2, filters=("identity", five)), automaton(3)]
    for i in (1, 2):
        ncas[i].save_pretrained(tmp_path / f"{i}")
    save_image(grey([[0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]), tmp_path / "map.png")
    save_image(grey(torch.rand(7, 9)), tmp_path / "speed.png")
    config = CanvasConfig(
        map=str(tmp_path / "map.png"), graft=(tmp_path / "1", tmp_path / "2"), speed_map=str(tmp_path / "speed.png")
    )
    cut = Plan(strip_rows, 2, 4, in_memory, False)
    states = []
    for options in ({}, {"plan": cut, "path": tmp_path / "x.png"}):
        with Canvas(Scene(ncas[0], 40, 21, 5, seed=7, config=config), **options) as canvas:
            canvas.go()
            states.append(canvas.rows(0, 40).clone())
    assert torch.equal(*states)


@torch.no_grad()
def test_a_speed_map_multiplies_the_fire_rate(tmp_path):
    nca = automaton(1, fire_rate=0.6)
    values = torch.tensor([[0.0, 51.0, 255.0]]) / 255
    save_image(grey(values.repeat_interleave(7, 1).expand(5, -1)), tmp_path / "speed.png")
    state = render(Scene(nca, 5, 21, 6, seed=7, config=CanvasConfig(speed_map=str(tmp_path / "speed.png"))))
    start = nca.initial_state(1, 5, 21, seed=7)
    rate = 0.6 * Map(grey(values.repeat_interleave(7, 1).expand(5, -1)), 5, 21).rows(torch.arange(5))
    assert torch.equal(state, nca(start, 6, seed=7, fire_rate=rate))
    assert torch.equal(state[..., :7], start[..., :7])  # black stands still
    changed = (nca(start, 1, seed=7, fire_rate=rate) != start).any(1)
    assert torch.equal(changed[..., 14:], (nca(start, 1, seed=7) != start).any(1)[..., 14:])  # white as without a map


def test_automata_must_go_together():
    one = automaton(1)
    zero = automaton(2, padding="zero")
    small = nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,)))
    scene, map = Scene(one, 8, 8, 1), torch.rand(3, 4, 4)
    with pytest.raises(ValueError, match="channels of all automata of a canvas must be equal, but got 6 and 5"):
        Colony(scene, [small], map=map)
    with pytest.raises(
        ValueError, match="padding of all automata of a canvas must be equal, but got circular and zero"
    ):
        Colony(scene, [zero], map=map)
    with pytest.raises(ValueError, match="a map must be given exactly when several automata share a canvas"):
        Colony(scene, [one])
    other = nca_fast.NCA(nca_fast.Rule(channels=6, hidden=(8,)), rgb_channel=2)
    with pytest.raises(ValueError, match="automata of a canvas must show the same channels"):
        Colony(scene, [other], map=map)
