"""A texture in an area of a picture: masks, borders, light, gradient-domain blending, and the command."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import nca_fast
from nca_fast import cli
from nca_fast.commands.fill import Fill
from nca_fast.media.images import load_straight, save_image
from nca_fast.media.linear_light import luminance, to_linear, to_srgb
from nca_fast.rendering import fill
from nca_fast.rendering.fill import MARGIN, Area, filled, grown, is_unlike, light_of, read_area
from nca_fast.rendering.membrane import membrane
from nca_fast.systems import texture_settings
from nca_fast.systems.texture import Texture


def random_picture(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def grey(value, height=20, width=24):
    return torch.full((3, height, width), float(value))


def square(height=20, width=24, edge=6):
    mask = torch.zeros(height, width)
    mask[edge:-edge, edge:-edge] = 1
    return mask


@pytest.fixture
def nca():
    torch.manual_seed(1)
    return nca_fast.NCA(nca_fast.Rule(channels=6, hidden=(8,)), start="noise", init_gain=0.5)


# Parts


def test_linear_light_is_that_of_srgb():
    assert to_linear(torch.tensor([0.0, 0.04, 0.5, 1.0])).tolist() == pytest.approx(
        [0, 0.003096, 0.214041, 1], abs=1e-6
    )
    levels = torch.arange(256) / 255
    assert torch.equal((to_srgb(to_linear(levels)) * 255).round(), torch.arange(256).float())
    assert float(luminance(grey(0.3))[0, 0]) == pytest.approx(0.3)


@pytest.mark.parametrize("size", [(8, 7), (41, 50)])
def test_a_membrane_continues_a_slope_and_each_pixel_is_the_mean_of_its_neighbours(size):
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    slope = torch.stack([0.3 * x + 0.5 * y, y - x])
    inside = torch.zeros(size, dtype=torch.bool)
    inside[2:-2, 1:-3] = True
    found = membrane(torch.where(inside, 7.0, slope), inside)
    assert torch.equal(found[:, ~inside], slope[:, ~inside])
    assert (found - slope).abs().max() < 2e-3
    found = membrane(torch.where(inside, 7.0, random_picture(*size)), inside)
    around = (found[:, :-2, 1:-1] + found[:, 2:, 1:-1] + found[:, 1:-1, :-2] + found[:, 1:-1, 2:]) / 4
    assert ((found[:, 1:-1, 1:-1] - around) * inside[1:-1, 1:-1]).abs().max() < 1e-3


def test_a_wide_membrane_is_found_by_smaller_ones():
    y, x = torch.meshgrid(*[torch.linspace(0, 1, 256)] * 2, indexing="ij")
    inside = torch.zeros(256, 256, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert (membrane(torch.where(inside, 7.0, x * y)[None], inside) - x * y).abs().max() < 2e-3


def test_a_membrane_at_the_edge_of_a_picture_is_pulled_by_what_is_known_alone():
    inside = torch.ones(20, 9, dtype=torch.bool)
    inside[:, 0] = False
    assert (membrane(torch.full((1, 20, 9), 0.4), inside) - 0.4).abs().max() < 0.01
    assert (membrane(torch.ones(1, 4, 4), torch.ones(4, 4, dtype=torch.bool)) == 0).all()


def test_a_mask_is_white_or_opaque(tmp_path):
    save_image(square().expand(3, -1, -1), tmp_path / "white.png")
    pixels = np.zeros((20, 24, 4), np.uint8)
    pixels[..., 3] = (square() * 255).byte().numpy()  # black, where it can be seen
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    for name in ("white.png", "opaque.png"):
        assert torch.equal(read_area(str(tmp_path / name), 20, 24).cover, square())
    assert read_area(square() * 0.01 + square(edge=8) * 0.99, 20, 24).box == (
        slice(7, 13),
        slice(7, 17),
    )  # JPEG's black
    assert read_area(torch.ones(20, 24), 20, 24).box == (slice(0, 21), slice(0, 25))
    with pytest.raises(ValueError, match="20 x 25 pixels of the picture, but the one '.*white.png' has 20 x 24"):
        read_area(str(tmp_path / "white.png"), 20, 25)
    with pytest.raises(ValueError, match="so nowhere"):
        read_area(torch.zeros(3, 4), 3, 4)


@pytest.mark.parametrize("soft", [4, 9])
def test_a_border_is_as_wide_as_it_shall_be_and_half_of_it_inside(soft):
    mask = torch.zeros(9, 60)
    mask[:, 30:] = 1
    cover = read_area(mask, 9, 60, soft).cover
    line = cover[4]
    assert torch.allclose(cover, line.expand(9, -1)) and torch.allclose(line + line.flip(0), torch.ones(60), atol=1e-6)
    assert abs(int(((line > 0) & (line < 1)).sum()) - soft) <= 1 and (line.diff() >= 0).all()


def test_the_border_is_mixed_in_linear_light_and_nothing_else_changes():
    photo = random_picture(20, 24)
    area = Area(square() * 0.5)
    shown = filled(photo, torch.ones(3, *square()[area.box].shape), area)
    expected = to_srgb((to_linear(photo) + 1) / 2)
    assert torch.equal(shown[:, square() == 0], photo[:, square() == 0])
    assert torch.allclose(shown[:, square() > 0], expected[:, square() > 0], atol=1e-6)
    faint = filled(photo, torch.ones(3, *square()[area.box].shape), Area(square()), strength=0.5)
    assert torch.allclose(faint, shown, atol=1e-6)


def test_the_light_of_a_photograph_stays_and_its_detail_does_not():
    photo = torch.linspace(0.4, 0.9, 120).expand(3, 90, 120).clone()
    area = Area(square(90, 120, 10))
    fine = photo + 0.1 * (torch.arange(120) % 2 * 2 - 1)
    light, detailed = (light_of(to_linear(picture), area)[1:-1, 1:-1] for picture in (photo, fine))
    assert float(light.mean()) == pytest.approx(1, abs=0.05) and (light.diff(dim=1) > 0).all()
    assert (detailed / light - 1).abs().max() < 0.12
    texture = grey(0.5, 72, 102)
    lit = filled(photo, texture, area, light=1.0)[:, 45, 12:-12]
    assert (lit.diff(dim=1) > -1e-6).all() and lit[0, -1] > lit[0, 0] + 0.2
    dark = filled(photo * 0.1, texture, area, light=1.0)[:, 45, 12:-12]
    assert torch.allclose(dark, lit, atol=0.12)  # how the light lies, and not how bright it is


def test_poisson_meets_the_colours_around_and_keeps_the_steps_of_the_texture():
    photo = grey(0.3, 40, 44)
    area = Area(square(40, 44))
    texture = 0.6 + 0.1 * random_picture(*square(40, 44)[area.box].shape, seed=3)
    shown = filled(photo, texture, area, "poisson")
    inside = shown[(slice(None), *area.box)]
    assert float(inside.mean()) == pytest.approx(0.3, abs=0.02)
    middle = (slice(None), slice(4, -4), slice(4, -4))
    steps, wanted = inside[middle].diff(dim=1), texture[middle].diff(dim=1)
    assert (steps - wanted).abs().max() < 0.03
    soft = filled(photo, texture, area)
    assert float(soft[(slice(None), *area.box)][middle].mean()) > 0.6


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_cells_live_in_the_area_and_around_it_alone(nca, zoom):
    mask = torch.zeros(80, 120)
    mask[:, :8], mask[:8] = 1, 1  # the corner far from it stays asleep
    area = Area(mask)
    shown = grown(nca, area, zoom, 3, None, seed=4)
    assert shown.shape == (3, 80, 120)
    rows, columns = int(80 / zoom) + 2 * MARGIN, int(120 / zoom) + 2 * MARGIN
    start = nca.initial_state(1, rows, columns, seed=4)
    every = nca(start, 3, seed=4)
    asleep, awake = (nca.to_rgb(x)[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN] for x in (start, every))
    if zoom == 1:
        assert torch.equal(shown[:, mask > 0], awake[:, mask > 0])
        assert torch.equal(shown[:, 40:, 40:], asleep[:, 40:, 40:])
    else:  # where no cell beyond the box has a say
        larger = torch.nn.functional.interpolate(awake[None], scale_factor=2, mode="bicubic")[0].clamp(0, 1)
        assert torch.allclose(shown[:, 4:6, 10:100], larger[:, 4:6, 10:100], atol=1e-5)


def test_what_grows_no_texture_is_refused():
    growing = nca_fast.NCA.preset("growing")
    with pytest.raises(ValueError, match="must grow a texture, but this one starts from cell"):
        grown(growing, Area(square()), 1, 1, None, 0)


def test_colours_of_a_picture_with_transparency_are_its_own(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, [[255, 128, 0]] * 2
    Image.fromarray(pixels).save(tmp_path / "a.png")
    color, alpha = load_straight(tmp_path / "a.png")
    assert torch.allclose(alpha, torch.tensor([1, 128 / 255, 0]).expand(2, 3))
    assert torch.allclose(color[0, 0], torch.tensor([200 / 255, 200 / 255, 1.0]), atol=1e-6)
    assert color[1, 0].tolist() == [0, 0, 1]


# The command


def run(*words):
    return cli.main(["fill", *map(str, words)])


def test_the_command_fills_and_keeps_what_is_transparent(nca, tmp_path, capsys, monkeypatch):
    pixels = (random_picture(20, 24) * 255).byte().permute(1, 2, 0).numpy()
    alpha = np.full((20, 24, 1), 255, np.uint8)
    alpha[:, :4] = 77
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(tmp_path / "photo.png")
    save_image(square().expand(3, -1, -1), tmp_path / "mask.png")
    model, out = nca.save_pretrained(tmp_path / "model"), tmp_path / "out.png"
    words = [tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--texture", model, "--steps", "3", "--out", out]
    assert run(*words, "--soft", "0") == 0
    result = np.asarray(Image.open(out))
    assert result.shape == (20, 24, 4) and np.array_equal(result[..., 3], alpha[..., 0])
    outside = square().numpy() == 0
    assert np.array_equal(result[outside][:, :3][alpha[outside][:, 0] == 255], pixels[outside & (alpha[..., 0] == 255)])
    grew = grown(nca, Area(square()), 1, 3, None, 0)
    expected = filled(load_straight(tmp_path / "photo.png")[0], grew, Area(square())).permute(1, 2, 0).numpy()
    assert np.abs(result[..., :3] - expected * 255)[alpha[..., 0] == 255].max() < 0.51
    assert "out.png" in capsys.readouterr().out
    threads = []
    monkeypatch.setattr(fill, "light_of", lambda *about: [threads.append(torch.get_num_threads()), light_of(*about)][1])
    assert run(*words, "--light", "1", "--threads", "3") == 0
    assert threads == [3] and "next: nca-fast fill " in capsys.readouterr().out


def test_a_texture_is_unlike_its_swatch_by_its_mean_or_its_spread_in_the_area_alone():
    area, swatch = Area(square(edge=3)), 0.2 + 0.3 * random_picture(30, 40)
    drawn = 0.2 + 0.3 * random_picture(20, 24, seed=1)
    cases = {0.05: False, -0.05: False, 0.25: True, -0.2: True}
    assert {shift: is_unlike((drawn + shift)[:, 2:-2, 2:-2], area, swatch) for shift in cases} == cases
    for times, unlike in ((0.1, True), (0.6, False), (1.5, False), (3.5, True)):
        assert is_unlike((0.35 + times * (drawn - 0.35))[:, 2:-2, 2:-2], area, swatch) == unlike
    beside = torch.where(square(edge=3) > 0, drawn, 1.0)[:, 2:-2, 2:-2]
    assert not is_unlike(beside, area, swatch)
    assert not is_unlike(grey(0.5)[:, 2:-2, 2:-2], area, grey(0.51))


def test_a_swatch_that_was_not_learned_is_said(tmp_path, monkeypatch, nca):
    for name, image in (("photo", grey(0.5)), ("mask", square().expand(3, -1, -1)), ("swatch", grey(0.9))):
        save_image(image, tmp_path / f"{name}.png")
    words = [tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "out.png", "--steps", "2"]
    words += ["--texture", tmp_path / "swatch.png", "--minutes", "0.25"]
    nca.save_pretrained(tmp_path / "learned")
    monkeypatch.setattr(Fill, "_learned", lambda self: str(tmp_path / "learned"))
    with pytest.warns(UserWarning, match="out.png is far from the swatch's colours: train longer, --minutes 0.5.$"):
        assert run(*words) == 0


def test_a_swatch_of_24_pixels_is_learned_and_used_again(tmp_path, capsys, monkeypatch):
    tiny = {"canvas_size": 16, "pool_size": 2, "steps_min": 2, "steps_max": 3, "picture_steps": 2}
    monkeypatch.setattr(texture_settings, "TextureConfig", partial(Texture.Config, **tiny))
    save_image(random_picture(24, 24), tmp_path / "swatch.png")
    save_image(random_picture(20, 24), tmp_path / "photo.png")
    save_image(square().expand(3, -1, -1), tmp_path / "mask.png")
    words = [tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "out.png", "--steps", "2"]
    words += ["--minutes", "0.01", "--texture", tmp_path / "swatch.png"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert f"--texture {tmp_path / 'out-texture'} --seed 1 --out other.png" in said
    assert f"{tmp_path / 'out-texture' / 'model.safetensors'}  " in said
    first = (tmp_path / "out.png").read_bytes()
    log = (tmp_path / "out-texture" / "log.jsonl").read_text()
    assert run(*words) == 0 and (tmp_path / "out-texture" / "log.jsonl").read_text() == log
    assert (tmp_path / "out.png").read_bytes() == first
    assert run(*words[:-1], tmp_path / "out-texture") == 0 and (tmp_path / "out.png").read_bytes() == first
    assert run(*words, "--keep", tmp_path / "kept") == 0
    assert (tmp_path / "kept" / "model.safetensors").exists()
    capsys.readouterr()
    save_image(random_picture(24, 24, seed=9), tmp_path / "swatch.png")
    assert run(*words) == 2
    assert "image must be that of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "texture must be given"),
        ("--texture zoo:bark --light 2", "light must be from 0 to 1, but got 2.0"),
        ("--texture zoo:bark --strength -1", "strength must be from 0 to 1"),
        ("--texture zoo:bark --zoom 0", "zoom must be from 0.1 to 100"),
        ("--texture zoo:bark --soft -1", "soft must be at least 0"),
        ("--texture zoo:bark --out x.bmp", "must end in one of"),
        ("--texture zoo:bark --mask {small}", "mask must have the 20 x 24 pixels"),
        ("--texture zoo:bark --memory lots", "memory must be a size such as 2GiB"),
        ("--texture zoo:bark --memory 1kB", "memory must be at least"),
        ("--texture zoo:birch", "the zoo has"),
        ("--texture nofile.png", "nofile.png"),
        ("--model zoo:bark --texture moss", "must go with an automaton that knows several"),
        ("--texture zoo:etching", "must grow a texture"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    save_image(random_picture(20, 24), tmp_path / "photo.png")
    save_image(square().expand(3, -1, -1), tmp_path / "mask.png")
    save_image(torch.ones(3, 5, 6), tmp_path / "small.png")
    given = options.format(small="small.png").split()
    given += [] if "--mask" in given else ["--mask", "mask.png"]
    given += [] if "--out" in given else ["--out", "out.png"]
    assert run("photo.png", *given) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out.png").exists()
