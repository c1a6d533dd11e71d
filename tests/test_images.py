import errno
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from nca_fast.media.images import image_grid, load_image, save_image, to_uint8
from nca_fast.media.sources import SKIMAGE_PICTURES


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def as_tensor(pixels):
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "PPM"])
def test_lossless_formats_come_back_exactly(tmp_path, pixels, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(path)
    loaded = load_image(path)
    assert loaded.dtype == torch.float32 and loaded.is_contiguous()
    assert torch.equal(loaded, as_tensor(pixels))


def test_exif_rotation_is_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "a.png"), as_tensor(np.rot90(pixels, -1)))


def test_modes_come_as_a_viewer_shows_them(tmp_path, pixels):
    def load(image, name="a.png", **options):
        image.save(tmp_path / name, **options)
        return load_image(tmp_path / name)

    grey = Image.fromarray(pixels[..., 0])
    assert torch.equal(load(grey), as_tensor(np.repeat(pixels[..., :1], 3, axis=2)))
    assert set(load(grey.convert("1")).unique().tolist()) == {0.0, 1.0}

    rgba = np.dstack([pixels, np.full((5, 7), 51, np.uint8)])
    # Alpha 0.2 over white; Pillow rounds to bytes.
    torch.testing.assert_close(load(Image.fromarray(rgba)), as_tensor(pixels) * 0.2 + 0.8, rtol=0, atol=1 / 255)
    transparent = Image.new("P", (4, 4), 1)
    transparent.putpalette([255, 0, 0, 0, 0, 255])
    assert load(transparent, transparency=1).eq(1).all()
    assert torch.equal(load(transparent)[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    grey_alpha = Image.merge("LA", [grey, Image.new("L", grey.size, 0)])
    assert load(grey_alpha).eq(1).all()

    cmyk = load(Image.new("CMYK", (3, 3), (0, 255, 255, 0)), "a.tiff")
    assert torch.equal(cmyk[:, 1, 1], torch.tensor([1.0, 0.0, 0.0]))

    deep = np.array([[0, 1, 32768, 65535]], np.uint16)
    assert torch.equal(load(Image.fromarray(deep))[1, 0], torch.tensor([0, 1, 32768, 65535]) / 65535)
    floats = np.array([[0.0, 0.25, 1.0]], np.float32)
    assert torch.equal(load(Image.fromarray(floats), "a.tiff")[2], torch.from_numpy(floats))
    with pytest.raises(ValueError, match=r"grey values of .* must lie in \[0, 1\].*span \[-1, 2\].*rescale"):
        load(Image.fromarray(np.array([[-1.0, 2.0]], np.float32)), "a.tiff")


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(load_image(tmp_path / "a.gif")[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_max_size_shrinks_only(tmp_path):
    wave = (127 + 100 * np.sin(np.arange(60) / 6)).astype(np.uint8)
    Image.fromarray(np.tile(wave, (30, 1))).save(tmp_path / "a.png")
    whole, small = load_image(tmp_path / "a.png"), load_image(tmp_path / "a.png", max_size=20)
    assert small.shape == (3, 10, 20)
    assert torch.equal(load_image(tmp_path / "a.png", max_size=60), whole)
    # A smooth wave survives shrinking; 0.02 is the difference to plain averages of three pixels (worst seen 0.0065).
    torch.testing.assert_close(small[0, 5, 1:-1], whole[0, 15].reshape(20, 3).mean(1)[1:-1], rtol=0, atol=0.02)
    deep = Image.fromarray(np.repeat(np.array([[0, 65535]], np.uint16), 8, axis=1))
    deep.save(tmp_path / "deep.png")
    assert (
        load_image(tmp_path / "deep.png", max_size=7).min() >= 0
        and load_image(tmp_path / "deep.png", max_size=7).max() <= 1
    )
    assert load_image(tmp_path / "deep.png", max_size=1).shape == (3, 1, 1)
    with pytest.raises(ValueError, match="max_size must be at least 1 pixel, but got 0"):
        load_image(tmp_path / "a.png", max_size=0)


def bomb_png(width, height):
    """A PNG whose header promises a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_bad_files_give_one_clear_error(tmp_path, pixels):
    def refused(path, match):
        with pytest.raises(ValueError, match=match):
            load_image(path)

    refused(tmp_path / "none.png", "must be an existing file or 'skimage:NAME', but there is no")
    refused(tmp_path, "is a folder")
    (tmp_path / "text.png").write_text("hello, I am no picture\n" * 9)
    refused(tmp_path / "text.png", "must be a picture .*but its content is none")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "must be a picture")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tiff"):
        whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
        noise.save(whole)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        refused(cut, "damaged or cut short|must be a picture")
    for width, height in ((10_000, 10_000), (60_000, 60_000)):  # Pillow warns about the first and refuses the second
        (tmp_path / "bomb.png").write_bytes(bomb_png(width, height))
        refused(tmp_path / "bomb.png", "must have at most 89478485 pixels.*decompression bomb")
    (tmp_path / "zero.ppm").write_bytes(b"P6 0 0 255\n")
    refused(tmp_path / "zero.ppm", "zero.ppm")
    (tmp_path / "zero.png").write_bytes(bomb_png(0, 4))
    refused(tmp_path / "zero.png", "zero.png")


@pytest.mark.parametrize("picture", ["brick", "coffee", "horse", "logo"])  # grey, RGB, bool, RGBA
def test_skimage_pictures(picture):
    image = load_image(f"skimage:{picture}", max_size=64)
    assert image.shape[0] == 3 and max(image.shape) == 64 and 0 <= image.min() < image.max() <= 1


def test_all_skimage_names_need_no_download(monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("tried to connect")

    monkeypatch.setattr("socket.socket.connect", no_network)
    for picture in SKIMAGE_PICTURES:
        assert load_image(f"skimage:{picture}").ndim == 3


def test_skimage_errors(monkeypatch):
    with pytest.raises(ValueError, match="must be one of astronaut, brick, .*but got 'bricks'"):
        load_image("skimage:bricks")
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ImportError, match=r"pip install 'nca-fast\[examples\]'"):
        load_image("skimage:brick")


def test_save_and_load(tmp_path):
    image = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    for ending, tolerance in (
        ("png", 0.51 / 255),
        ("webp", 0.51 / 255),
        ("jpg", 0.2),
        ("JPEG", 0.2),
    ):  # rounding; JPEG of noise, worst seen 0.05
        save_image(image, tmp_path / f"a.{ending}")
        torch.testing.assert_close(load_image(tmp_path / f"a.{ending}"), image, rtol=0, atol=tolerance)
    save_image(torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1), str(tmp_path / "a.png"))
    assert torch.equal(load_image(tmp_path / "a.png").flatten() * 255, torch.tensor([0.0, 128.0, 255.0]))


def test_save_refuses(tmp_path):
    with pytest.raises(ValueError, match="must end in one of .jpeg, .jpg, .png, .webp"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "a.gif")
    for bad in (
        torch.zeros(1, 3, 2, 2),
        torch.zeros(1, 2, 2),
        torch.zeros(3, 0, 2),
        torch.zeros(3, 2, 2, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"must be a non-empty float \[3, H, W\]"):
            save_image(bad, tmp_path / "a.png")
    with pytest.raises(ValueError, match="must not hold NaN"):
        save_image(torch.full((3, 2, 2), torch.nan), tmp_path / "a.png")
    with pytest.raises(OSError, match="cannot write"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "no" / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_full_disk_leaves_no_half_written_picture(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    save_image(torch.zeros(3, 4, 4), path)
    before = path.read_bytes()
    whole_save = Image.Image.save

    def full(self, target, **options):
        whole_save(self, target, **options)
        with open(target, "rb+") as file:
            file.truncate(20)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="cannot write .*No space left on device.*half-written"):
        save_image(torch.ones(3, 4, 4), path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_image_grid():
    images = [torch.full((3, 2, 4), value) for value in (0.1, 0.2, 0.3)]
    grid = image_grid(images, columns=2, pad=1)
    assert grid.shape == (3, 5, 9)
    assert torch.equal(grid[:, :2, :4], images[0]) and torch.equal(grid[:, :2, 5:], images[1])
    assert torch.equal(grid[:, 3:, :4], images[2]) and grid[:, 3:, 4:].eq(1).all() and grid[:, 2].eq(1).all()
    assert image_grid(images, columns=9).shape == (3, 2, 16)
    for bad in ([], [torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)], [torch.zeros(2, 2)]):
        with pytest.raises(ValueError, match=r"one or more \[3, H, W\] of one size"):
            image_grid(bad, 2)
    with pytest.raises(ValueError, match="columns must be at least 1"):
        image_grid(images, 0)


def test_to_uint8_rounds_to_nearest():
    image = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255]).reshape(1, 2, 2).repeat(3, 1, 1)
    assert to_uint8(image)[..., 1].tolist() == [[0, 0], [1, 255]]
