"""Rendering: the frames on the way never change the result; bad sizes are refused before any work."""

import pytest
import torch

import nca_fast
from nca_fast.rendering.canvas import even_speed, render, speed_ramp


@pytest.fixture
def nca():
    torch.manual_seed(0)
    rule = nca_fast.Rule(channels=5, hidden=(8,))
    return nca_fast.NCA(rule, start="noise", init_gain=0.3)


def test_speed_ramp_is_that_of_the_notebook():
    notebook = [min(2 ** (k // 30), 8) for k in range(300)]
    assert speed_ramp(sum(notebook)) == notebook


@pytest.mark.parametrize("steps", [1, 29, 30, 31, 500])
def test_speeds_sum_to_the_steps(steps):
    assert sum(speed_ramp(steps)) == steps
    assert sum(even_speed(steps, 7)) == steps
    assert min(speed_ramp(steps) + even_speed(steps, 7)) >= 1


def test_render_is_one_rollout(nca):
    expected = nca(nca.initial_state(1, 12, 20, seed=3), steps=9, seed=3)
    assert torch.equal(render(nca, 12, 20, 9, seed=3), expected)
    assert expected.shape == (1, 5, 12, 20)


def test_frames_do_not_change_the_result(nca):
    seen = []
    state = render(nca, 12, 20, 9, seed=3, frames=[1, 2, 6], on_frame=lambda x, done: seen.append((x, done)))
    assert torch.equal(state, render(nca, 12, 20, 9, seed=3))
    assert [done for _, done in seen] == [1, 3, 9]
    assert torch.equal(seen[1][0], render(nca, 12, 20, 3, seed=3))


def test_render_builds_no_graph(nca):
    assert not render(nca, 4, 4, 2).requires_grad


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 4, 4), "height must be at least 1, but got -1"),
        ((4, 0, 4), "width must be at least 1, but got 0"),
        ((4, 4, 0), "steps must be at least 1, but got 0"),
        ((10**7, 10**7, 1), "canvas must fit into memory"),
    ],
)
def test_bad_sizes(nca, sizes, message):
    with pytest.raises(ValueError, match=message):
        render(nca, *sizes)


@pytest.mark.parametrize("frames", [[1, 2], [5, -1], [4, 0], []])
def test_frames_must_sum_to_the_steps(nca, frames):
    with pytest.raises(ValueError, match="frames must be positive and sum to the 4 steps"):
        render(nca, 4, 4, 4, frames=frames)
