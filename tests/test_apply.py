"""Applying a model to the pictures that people have: logos with transparency, and folders with bad files in them."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import nca_fast
from nca_fast.media.formats import write_picture
from nca_fast.rendering import apply as apply_module
from nca_fast.rendering.apply import apply

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (6, 9), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    nca = nca_fast.NCA.preset("style")
    with torch.no_grad():
        for weights in nca.parameters():
            weights += 0.1 * torch.randn(weights.shape)
    return nca


@pytest.fixture
def logo(tmp_path):
    Image.fromarray(np.dstack([PIXELS, ALPHA])).save(tmp_path / "logo.png")
    return tmp_path / "logo.png"


def read(path):
    with Image.open(path) as image:
        return np.asarray(image if image.mode == "RGBA" else image.convert("RGB")).astype(int)


def test_transparency_stays(tmp_path, model, logo):
    how = {"seed": 1, "backend": "reference"}
    Image.fromarray(read_on_white(logo)).save(tmp_path / "white.png")
    apply(model, tmp_path / "white.png", tmp_path / "opaque.png", 3, **how)
    color = read(tmp_path / "opaque.png")
    assert color.shape[2] == 3 and np.abs(color - read(tmp_path / "white.png")).max() > 20
    for name in ("a.png", "a.tif", "a.webp"):
        apply(model, logo, tmp_path / name, 3, **how)
        found = read(tmp_path / name)
        assert np.array_equal(found[..., 3], ALPHA)
        assert np.array_equal(found[..., :3][ALPHA > 0], color[ALPHA > 0])  # WebP drops colours that nobody sees
    on_white = (color * ALPHA[..., None] + 255.0 * (255 - ALPHA[..., None])) / 255
    apply(model, logo, tmp_path / "a.jpg", 3, **how)
    Image.fromarray(on_white.round().astype(np.uint8)).save(tmp_path / "b.jpg", quality=95, subsampling=0)
    assert np.abs(read(tmp_path / "a.jpg") - read(tmp_path / "b.jpg")).max() <= 1  # another way to round; worst seen 0
    apply(model, logo, tmp_path / "a.gif", 3, steps_per_frame=3, **how)
    with Image.open(tmp_path / "a.gif") as film:
        film.seek(1)
        assert np.abs(np.asarray(film.convert("RGB")) - on_white).max() <= 1
    (tmp_path / "in").mkdir()
    logo.rename(tmp_path / "in" / "logo.png")
    apply(model, tmp_path / "in", tmp_path / "out", 3, max_size=5, **how)
    assert read(tmp_path / "out" / "logo.png").shape == (3, 5, 4)


def read_on_white(path):
    with Image.open(path) as image:
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def test_transparency_of_pictures_in_pieces(tmp_path):
    """Rows of alpha go with their rows of colours, in tiles and in filtered lines."""
    pixels = np.random.default_rng(2).integers(0, 256, (300, 270, 4), dtype=np.uint8)
    for name in ("a.png", "a.tif"):
        blocks = (pixels[row : row + 77, :, :3] for row in range(0, 300, 77))
        write_picture(tmp_path / name, 300, 270, blocks, pixels[..., 3])
        assert np.array_equal(read(tmp_path / name), pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert [int(sample) for sample in file.pages[0].extrasamples] == [2]  # not multiplied by it


def test_one_bad_file_does_not_end_a_folder(tmp_path, model, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(PIXELS).save(folder / "good.png")
    Image.fromarray(PIXELS).save(folder / "photo.jpg")
    whole = (folder / "good.png").read_bytes()
    bad = {
        "empty.png": b"",
        "cut.png": whole[:70],
        "text.jfif": b"hello",
        "photo.heic": b"\0\0\0\x24ftypheic" + bytes(99),
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "mode.tiff": (b"II*\0\x08\0\0\0" + b"\0\0" + bytes(4)),
        "deep.pfm": b"Pf\n2 1\n-1.0\n" + np.float32([0, np.inf]).tobytes(),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.fromarray(PIXELS).resize((33, 44)).save(folder / "large.png")
    scene = apply_module.Scene

    def too_large(nca, height, width, *arguments, **options):
        if height == 44:
            raise ValueError("the canvas must fit into memory")
        return scene(nca, height, width, *arguments, **options)

    monkeypatch.setattr(apply_module, "Scene", too_large)
    written, passed_over = apply(model, folder, tmp_path / "out", 2, backend="reference")
    assert sorted(path.name for path in written) == ["good.png", "photo.png"]
    assert len(passed_over) == len(bad) + 1
    for name in (*bad, "large.png"):
        assert sum(name in sentence for sentence in passed_over) == 1, name
