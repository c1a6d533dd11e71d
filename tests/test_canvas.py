"""Rendering: the frames on the way never change the result; bad sizes are refused before any work."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import nca_fast
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.start import file_size, find_start
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.render import render
from nca_fast.sizes import parse_bytes


@pytest.fixture
def nca():
    torch.manual_seed(0)
    rule = nca_fast.Rule(channels=5, hidden=(8,))
    return nca_fast.NCA(rule, start="noise", init_gain=0.3)


def test_render_is_one_rollout(nca):
    expected = nca(nca.initial_state(1, 12, 20, seed=3), steps=9, seed=3)
    assert torch.equal(render(Scene(nca, 12, 20, 9, seed=3)), expected)
    assert expected.shape == (1, 5, 12, 20)


def test_looks_on_the_way_do_not_change_the_result(nca):
    scene, seen = Scene(nca, 12, 20, 9, seed=3), {}
    with Canvas(scene) as canvas:
        for until in (1, 3, 9):
            canvas.go(until)
            seen[canvas.done] = canvas.state().clone()
    assert list(seen) == [1, 3, 9]
    assert torch.equal(seen[9], render(scene))
    assert torch.equal(seen[3], render(replace(scene, steps=3)))


def test_render_builds_no_graph(nca):
    assert not render(Scene(nca, 4, 4, 2)).requires_grad


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
        render(Scene(nca, *sizes))


def grown(nca, height, width, steps, config, **options):
    with Canvas(Scene(nca, height, width, steps, seed=3, config=config), **options) as canvas:
        canvas.go()
        return canvas.rows(0, height).clone()


@pytest.mark.parametrize("memory", ["1MiB", "6kB", "9kB"])
@torch.no_grad()
def test_a_canvas_that_grows_keeps_its_middle(nca, tmp_path, memory):
    config = CanvasConfig(grow_every=4, grow_by=3, memory=memory)
    x = nca.initial_state(1, 8, 10, seed=3)  # 20 x 22 less twice 6
    for first, steps in ((0, 4), (4, 4), (8, 2)):
        x = nca(x, steps, seed=3, first_step=first)
        if first < 8:
            larger = nca.initial_state(1, x.shape[2] + 6, x.shape[3] + 6, seed=3)
            larger[:, :, 3:-3, 3:-3] = x
            x = larger
    assert x.shape[2:] == (20, 22)
    assert torch.equal(grown(nca, 20, 22, 10, config, path=tmp_path / "x.png"), x[0])
    assert list(tmp_path.iterdir()) == []


def test_a_canvas_that_grows_goes_on_after_an_interruption(nca, tmp_path):
    config, path = CanvasConfig(grow_every=4, grow_by=3, resumable=True, steps_per_pass=1), tmp_path / "x.png"
    expected, scene = grown(nca, 20, 22, 10, CanvasConfig(grow_every=4, grow_by=3)), Scene(nca, 20, 22, 10, seed=3)
    scene = replace(scene, config=config)
    for until in (2, 4, 5, 8, 9):
        with pytest.raises(KeyboardInterrupt), Canvas(scene, path=path, resume=False) as canvas:
            canvas.go(until)
            raise KeyboardInterrupt
        with Canvas(scene, path=path, resume=True) as canvas:
            total, done = canvas.cell_steps()
            assert 0 < done < total == 4 * 8 * 10 + 4 * 14 * 16 + 2 * 20 * 22
            canvas.go()
            assert canvas.cell_steps() == (total, total)
            assert torch.equal(canvas.rows(0, 20), expected)
        assert list(tmp_path.iterdir()) == []


def test_a_canvas_cannot_begin_with_nothing(nca):
    with pytest.raises(
        ValueError, match="height and width must be above 12, because the canvas grows 2 times by 3 cells"
    ):
        Canvas(Scene(nca, 12, 22, 10, config=CanvasConfig(grow_every=4, grow_by=3)))


@torch.no_grad()
def test_steps_go_on_counting_from_a_saved_state(nca, tmp_path):
    scene = Scene(nca, 12, 20, 5, seed=3)
    with Canvas(scene) as canvas:
        canvas.go()
        canvas.save_state(tmp_path / "x.safetensors")
    config, x = CanvasConfig(start=str(tmp_path / "x.safetensors")), render(scene)
    assert torch.equal(grown(nca, 12, 20, 4, config), render(replace(scene, steps=9))[0])
    assert torch.equal(load_file(tmp_path / "x.safetensors")["state"], x[0])
    other = nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(4,), filters=("identity",)), init_gain=0.3)
    assert torch.equal(grown(other, 12, 20, 4, config), other(x, 4, seed=3, first_step=5)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_state_that_somebody_else_saved(nca, tmp_path, dtype):
    state = torch.rand(5, 12, 20).to(dtype)
    save_file({"state": state}, tmp_path / "x.safetensors")
    found = find_start(Scene(nca, 12, 20, 4, config=CanvasConfig(start=str(tmp_path / "x.safetensors"))))
    assert torch.equal(found.state.rows(3, 4), state[:, 3:7].float())
    assert file_size(tmp_path / "x.safetensors") == (12, 20)


def test_a_file_that_is_no_state(nca, tmp_path):
    path = tmp_path / "x.safetensors"
    scene = Scene(nca, 12, 20, 4, config=CanvasConfig(start=str(path)))
    with pytest.raises(FileNotFoundError):
        find_start(scene)
    for content in (
        b"",
        b"some text that is longer than eight bytes",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"state (\S+ )?must be a safetensors file"):
            find_start(scene)
    save_file({"state": torch.rand(5, 12, 20)}, path)
    with pytest.raises(ValueError, match="must be 5 channels of 12 x 21 cells, but it is 5 of 12 x 20"):
        Canvas(replace(scene, width=21))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must be complete, but it is truncated"):
        find_start(scene)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("cell", "start=cell needs an automaton with an alive channel"),
        ("picture.png", r"image must have shape \[3, 12, 20\], but got \[3, 12, 21\]"),
        ("missing.png", "missing.png"),
    ],
)
def test_starts_that_do_not_fit(nca, tmp_path, start, message):
    save_image(torch.rand(3, 12, 21), tmp_path / "picture.png")
    start = start if start == "cell" else str(tmp_path / start)
    with pytest.raises(ValueError, match=message):
        Canvas(Scene(nca, 12, 20, 4, config=CanvasConfig(start=start)))


@torch.no_grad()
def test_any_automaton_starts_from_a_picture_or_from_nothing(nca, tmp_path):
    image = torch.rand(3, 12, 20)
    save_image(image, tmp_path / "picture.png")
    painter = nca_fast.NCA(nca.rule, start="image")
    painter.load_state_dict(nca.state_dict())
    image = load_image(tmp_path / "picture.png")
    expected = painter(painter.initial_state(1, 12, 20, seed=3, image=image), 4, seed=3)
    assert torch.equal(grown(nca, 12, 20, 4, CanvasConfig(start=str(tmp_path / "picture.png"))), expected[0])
    assert torch.equal(grown(nca, 12, 20, 4, CanvasConfig(start="zeros")), nca(torch.zeros(1, 5, 12, 20), 4, seed=3)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_per_pass": 0}, "steps_per_pass must be at least 1, but got 0"),
        ({"memory": "much"}, "memory must be a size such as 2GiB or 500MB, but got 'much'"),
        ({"memory": "0GiB"}, "memory must be a size"),
        ({"grow_every": 3}, "grow_every and grow_by must be given together"),
        ({"map": "x.png"}, "map and graft must be given together"),
    ],
)
def test_settings_that_cannot_be(nca, settings, message):
    with pytest.raises(ValueError, match=message):
        Scene(nca, 4, 4, 4, config=CanvasConfig(**settings))


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 g", 1_500_000_000), ("4096", 4096), ("3kib", 3072)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_bytes(text) == size
