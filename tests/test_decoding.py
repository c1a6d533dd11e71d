"""Picture files of all kinds, sound and odd: what a viewer shows, or one sentence."""

import resource
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nca_fast.media.decoding import picture_files
from nca_fast.media.images import load_image, load_rgba, load_with_alpha

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
WHOLE = torch.from_numpy(PIXELS.astype(np.float32) / np.float32(255)).permute(2, 0, 1)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, color, rows, before=b"", after=b""):
    """A PNG from its chunks, with rows as they are stored, and other chunks before and after the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def rgb_png(before=b"", after=b""):
    return png(7, 5, 8, 2, [row.tobytes() for row in PIXELS], before, after)


EXIF = b"MM\0*\0\0\0\x08"  # then the number of tags, and 12 bytes for each
ODD_EXIF = {
    "garbage": b"garbage",
    "nothing": b"",
    "cut": EXIF + b"\0\x02\x01\x12\0\x03",
    "far away": b"MM\0*\xff\xff\xff\xf0",
    "in circles": EXIF + b"\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
    "orientation 99": EXIF + b"\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    "orientation as text": EXIF + b"\0\x01\x01\x12\0\x02\0\0\0\x02six\0\0\0\0\0",
    "orientations": EXIF + b"\0\x01\x01\x12\0\x03\0\0\0\x02\0\x06\0\x06\0\0\0\0",
}


@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_odd_exif_does_not_hurt(tmp_path, exif):
    (tmp_path / "before.png").write_bytes(rgb_png(before=chunk(b"eXIf", exif)))
    (tmp_path / "after.png").write_bytes(rgb_png(after=chunk(b"eXIf", exif)))
    Image.fromarray(PIXELS).save(tmp_path / "a.webp", lossless=True, exif=exif)
    for path in tmp_path.iterdir():
        if exif != ODD_EXIF["orientations"]:
            assert torch.equal(load_image(path), WHOLE), path
        assert load_rgba(path, 9).shape[0] == 4
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert load_image(tmp_path / "a.jpg").ndim == 3


def test_exif_damaged_at_random(tmp_path):
    """An AVIF's EXIF is refused by the library that decodes it; it must not come to see it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "the maker", {1: "N", 2: (1.0, 2.0, 3.0)}
    random = np.random.default_rng(0)
    for ending in ("png", "jpg", "webp", "avif"):
        Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}", exif=exif)
        content = (tmp_path / f"a.{ending}").read_bytes()
        wanted, begin = load_image(tmp_path / f"a.{ending}"), content.index(b"\0*\0") - 2
        for _ in range(40):
            damaged = bytearray(content)
            for _ in range(random.integers(1, 5)):
                damaged[begin + random.integers(0, 60)] = random.integers(0, 256)
            (tmp_path / f"b.{ending}").write_bytes(damaged)
            assert sorted(load_image(tmp_path / f"b.{ending}").shape) == sorted(wanted.shape)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(tmp_path, ending, orientation):
    exif, quarter = Image.Exif(), {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    exif[0x0112] = orientation
    halves = Image.fromarray(np.repeat([[0, 255]], 16, axis=0).repeat(12, axis=1).astype(np.uint8)).convert("RGB")
    halves.save(tmp_path / f"a.{ending}", exif=exif)
    wanted = np.rot90(np.asarray(halves)[..., 0] / 255, quarter)
    found = load_image(tmp_path / f"a.{ending}")[0].numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 0.01  # what is lossy loses next to nothing here; worst seen 0.0012


def test_what_hangs_on_a_png_is_no_damage(tmp_path):
    text = b"comment\0\0" + zlib.compress(bytes(3 * 2**20))
    broken = chunk(b"tIME", b"1234567")[:-1] + b"?"
    animation = chunk(b"acTL", b"\0\0") + chunk(b"fcTL", b"short")
    for name, extra in {
        "3 MB of text": chunk(b"zTXt", text),
        "100 MB of text": chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(100 * 2**20))),
        "much text": chunk(b"zTXt", text) * 30,
        "wrong checksum": broken,
        "broken animation": animation,
        "broken text": chunk(b"iTXt", b"\xff\xfe") + chunk(b"zTXt", b"a\0\0garbage"),
        "unknown": chunk(b"abCd", bytes(9)),
        "short physical size": chunk(b"pHYs", b"\0"),
    }.items():
        (tmp_path / "a.png").write_bytes(rgb_png(before=extra, after=extra))
        assert torch.equal(load_image(tmp_path / "a.png"), WHOLE), name


def test_a_profile_that_is_a_bomb(tmp_path, recwarn):
    """16 of its 100 MB are unpacked; worst seen 34 MB in all."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()
    (tmp_path / "a.png").write_bytes(rgb_png(before=chunk(b"iCCP", b"bomb\0\0" + packed)))
    tracemalloc.start()
    assert torch.equal(load_image(tmp_path / "a.png"), WHOLE)
    assert tracemalloc.get_traced_memory()[1] < 6e7
    tracemalloc.stop()
    assert len(recwarn) == 1


def test_png_transparency_of_one_value(tmp_path):
    """Pillow compares the 2, 4 and 16-bit numbers of the file with the 8-bit ones that it makes of the pixels."""
    grey, color = struct.Struct(">H"), struct.Struct(">3H")
    for depth, row, value in ((2, b"\x80", 2), (4, b"\xa0", 10), (8, b"\xaa\0", 170), (16, b"\xaa\xaa\0\0", 43690)):
        (tmp_path / "a.png").write_bytes(png(2, 1, depth, 0, [row], chunk(b"tRNS", grey.pack(value))))
        assert load_with_alpha(tmp_path / "a.png")[1].tolist() == [[0, 1]], depth
        assert load_image(tmp_path / "a.png")[0].tolist() == [[1, 0]], depth
    row = struct.pack(">6H", 300, 500, 700, 3000, 500, 700)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, [row], chunk(b"tRNS", color.pack(300, 500, 700))))
    assert load_with_alpha(tmp_path / "a.png")[1].tolist() == [[0, 1]]


def both(path):
    """A picture's brightness over white, and its premultiplied colour and alpha."""
    rgba = load_rgba(path, 100)
    return load_image(path)[1, 0], rgba[1, 0], rgba[3, 0]


@pytest.mark.parametrize("samples", [3, 4])
def test_colors_in_deep_planes(tmp_path, samples):
    """Pillow decodes those that are compressed; of others it takes every byte for a pixel, and says nothing."""
    values = np.random.default_rng(0).integers(0, 65536, (samples, 5, 6), np.uint16)
    options = {"photometric": "rgb", "planarconfig": "separate"} | ({"extrasamples": [2]} if samples == 4 else {})
    tifffile.imwrite(tmp_path / "a.tiff", values, **options, compression="zlib")
    pixels = load_rgba(tmp_path / "a.tiff", None).numpy()
    alpha = values[3] / 65535 if samples == 4 else np.ones((5, 6))
    assert np.abs(pixels[:3] - values[:3] / 65535 * alpha).max() < 2 / 255 and np.abs(pixels[3] - alpha).max() < 1 / 255
    tifffile.imwrite(tmp_path / "b.tiff", values, **options)
    with pytest.raises(ValueError, match=r"b.tiff' must be a TIFF of a kind that Pillow reads, .*colours in planes"):
        load_rgba(tmp_path / "b.tiff", None)


@pytest.mark.parametrize("tag", [256, 257])
def test_a_tiff_that_says_more_pixels_than_it_has(tmp_path, tag):
    """1 KB that says 50 million; Pillow makes up the rest, black, in gigabytes."""
    path = tmp_path / "a.tiff"
    Image.fromarray(np.zeros((20, 24), np.uint16)).save(path)
    content = bytearray(path.read_bytes())
    entries, at = struct.unpack_from("<H", content, at := struct.unpack_from("<I", content, 4)[0])[0], at + 2
    for entry in range(at, at + 12 * entries, 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<HII", content, entry + 2, 4, 1, 2**21)
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="a.tiff' cannot be read; it may be damaged"):
        load_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_deep_pictures_keep_their_range(tmp_path):
    """8 bits of 16 where Pillow keeps no more: 1/255 off; worst seen 0.0039."""
    values = torch.tensor([0, 0.25, 0.5, 1])
    sixteen = (values * 65535).round().numpy().astype(np.uint16)[None]

    def check(name, alpha=None, atol=1e-4):
        shown, held, opaque = both(tmp_path / name)
        a = torch.ones(4) if alpha is None else alpha
        torch.testing.assert_close(opaque, a, rtol=0, atol=atol)
        torch.testing.assert_close(held, values * a, rtol=0, atol=atol)
        torch.testing.assert_close(shown, values * a + 1 - a, rtol=0, atol=atol)

    Image.fromarray(sixteen).save(tmp_path / "a.png")
    check("a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + sixteen.astype(">u2").tobytes())
    check("a.pgm")
    for array in (
        sixteen,
        sixteen.astype(np.int32),
        values.numpy()[None],
        (values.double() * (2**31 - 1)).numpy().astype(np.int32)[None],
        (values.double() * (2**32 - 1)).numpy().astype(np.uint32)[None],
    ):
        tifffile.imwrite(tmp_path / "a.tiff", array, photometric="minisblack")
        check("a.tiff")
        if array.dtype != np.uint32:
            tifffile.imwrite(tmp_path / "b.tiff", array, photometric="minisblack", byteorder=">")
            check("b.tiff")
    tifffile.imwrite(tmp_path / "s.tiff", (values * 32767).round().numpy().astype(np.int16)[None])
    check("s.tiff")
    tifffile.imwrite(tmp_path / "i.tiff", 65535 - sixteen, photometric="miniswhite")
    check("i.tiff")
    alpha = torch.tensor([1, 0.5, 0.25, 0])
    opaque = (alpha * 65535).round().numpy().astype(np.uint16)
    rows = np.stack([sixteen[0], opaque], 1)
    (tmp_path / "la.png").write_bytes(png(4, 1, 16, 4, [rows.astype(">u2").tobytes()]))
    check("la.png", alpha, 1.01 / 255)
    rows = np.stack([sixteen[0]] * 3 + [opaque], 1)
    (tmp_path / "rgba.png").write_bytes(png(4, 1, 16, 6, [rows.astype(">u2").tobytes()]))
    check("rgba.png", alpha, 1.01 / 255)
    tifffile.imwrite(tmp_path / "rgba.tiff", rows[None], photometric="rgb", extrasamples=["unassalpha"])
    check("rgba.tiff", alpha, 1.01 / 255)
    tifffile.imwrite(tmp_path / "rgb.tiff", rows[None, :, :3], photometric="rgb")
    check("rgb.tiff", None, 1.01 / 255)


def test_ranges_that_nobody_can_tell(tmp_path):
    for array in (np.int32([[0, 70_000]]), np.int32([[-1, 9]]), np.float32([[0, 255]]), np.float32([[0, np.nan]])):
        tifffile.imwrite(tmp_path / "a.tiff", array, photometric="minisblack")
        for load in (load_image, lambda path: load_rgba(path, 9)):
            with pytest.raises(ValueError, match=r"grey values of .* must lie in \[0, .* span .* rescale"):
                load(tmp_path / "a.tiff")


def test_what_pillow_cannot_read_is_one_sentence(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", np.zeros((3, 4, 2), np.uint16), photometric="minisblack", planarconfig=1)
    tifffile.imwrite(tmp_path / "b.tiff", np.zeros((3, 4), np.float64), photometric="minisblack")
    for name in ("a.tiff", "b.tiff"):
        with pytest.raises(ValueError, match="must be a TIFF of a kind that Pillow reads.*save it as PNG"):
            load_image(tmp_path / name)
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(99))
    (tmp_path / "photo.HEIC").write_bytes(b"anything")
    for name in ("photo.jpg", "photo.HEIC"):
        with pytest.raises(ValueError, match=rf"{name}' .*HEIC: convert it to JPEG \(pip install pillow-heif"):
            load_image(tmp_path / name)
    for start in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.7", b"<svg xmlns=''/>"):
        (tmp_path / "page.png").write_bytes(start)
        with pytest.raises(ValueError, match="is a drawing .*export it as PNG"):
            load_image(tmp_path / "page.png")


def test_files_of_a_folder(tmp_path):
    kinds = ["png", "jpg", "jpeg", "jfif", "jpe", "jp2", "avif", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "webp"]
    kinds += ["tga", "ico", "qoi"]
    small = Image.fromarray(PIXELS).resize((16, 16))
    for ending in kinds:
        small.save(tmp_path / f"a.{ending.upper()}")
    for name in ("a.heic", "b.heif"):
        (tmp_path / name).write_bytes(b"photo")
    for name in (".hidden.png", "a.eps", "a.ps", "a.pdf", "a.txt", "a.mpg", "a.h5", "a.wmf", "a.safetensors", "a"):
        (tmp_path / name).write_bytes(b"none")
    (tmp_path / "folder.png").mkdir()
    found = picture_files(tmp_path)
    assert {path.name for path in found} == {f"a.{ending.upper()}" for ending in kinds} | {"a.heic", "b.heif"}
    for path in found:
        if path.suffix.isupper():
            assert load_image(path).shape == (3, 16, 16), path
