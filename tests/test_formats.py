"""Pictures of any size: what is written is what came in, in bounded memory, whole or not at all."""

import json
import os
import re
import sys
import tracemalloc
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nca_fast.media import png, pyramid, row_blocks, tiff
from nca_fast.media.formats import FORMATS, check_picture, write_picture


def picture(height, width, seed=0):
    """Smooth parts and noise, so that filters and compression have something to do."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 3 + columns, rows + columns * 2, rows * columns], axis=2) // 4
    return ((smooth + np.random.default_rng(seed).integers(0, 3, (height, width, 3))) % 256).astype(np.uint8)


def cut(pixels, sizes):
    """Row blocks of these sizes, over and over."""
    row, n = 0, 0
    while row < len(pixels):
        yield pixels[row : row + sizes[n % len(sizes)]]
        row, n = row + sizes[n % len(sizes)], n + 1


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# A single pixel, row and column; less than a block; odd sides over several tiles of 256 with odd blocks.
SIZES = [(1, 1, [1]), (1, 300, [1]), (7, 1, [2]), (5, 6, [9]), (515, 259, [1, 255, 3, 0, 100]), (256, 512, [256])]


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF", "webp"])
@pytest.mark.parametrize(("height", "width", "blocks"), SIZES)
def test_every_pixel_comes_back(tmp_path, ending, height, width, blocks):
    pixels, path = picture(height, width), tmp_path / f"a.{ending}"
    assert write_picture(path, height, width, cut(pixels, blocks)) == [path]
    with Image.open(path) as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels)
    assert names(tmp_path) == [path.name]


def test_png_pieces_join(tmp_path, monkeypatch):
    """Filters reach back over the borders of blocks and of the pieces that are compressed at a time."""
    monkeypatch.setattr(png, "PIECE", 3 * 50 * 4)
    pixels = picture(203, 50)
    write_picture(tmp_path / "a.png", 203, 50, cut(pixels, [9, 1, 30]))
    write_picture(tmp_path / "c.png", 203, 50, [pixels])
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    whole = tmp_path / "b.png"
    Image.fromarray(pixels).save(whole)
    # Pillow tries all filters at level 6; worst seen 1.07 times as large.
    assert (tmp_path / "a.png").stat().st_size < 1.3 * whole.stat().st_size


def test_jpeg_keeps_the_picture(tmp_path):
    pixels = np.repeat(np.repeat(picture(6, 8), 8, axis=0), 8, axis=1)
    write_picture(tmp_path / "a.jpg", 48, 64, cut(pixels, [5]))
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 8  # flat blocks at quality 95; worst seen 3


@pytest.mark.parametrize("big", [False, True])
def test_tiff_is_tiled_and_compressed_and_big_where_4_gigabytes_need_it(tmp_path, monkeypatch, big):
    pixels = np.repeat(picture(50, 1), 700, axis=1)
    needed = FORMATS[".tif"].bytes_needed(50, 700)
    monkeypatch.setattr(tiff, "CLASSIC", needed if big else needed + 1)
    write_picture(tmp_path / "a.tif", 50, 700, cut(pixels, [7]))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert file.is_bigtiff == big and page.is_tiled and page.tile == (256, 256)
        assert page.compression.name == "ADOBE_DEFLATE"
        assert np.array_equal(page.asarray(), pixels)
    assert (tmp_path / "a.tif").stat().st_size < pixels.nbytes / 5


# --- pyramids ---------------------------------------------------------------------------------------------------------


def levels_of(pixels):
    """All levels, top first, computed in one piece by an edge-padded mean."""
    levels = [pixels]
    while max(levels[-1].shape[:2]) > 1:
        last = levels[-1].astype(np.float64)
        last = np.concatenate([last, last[-1:]]) if last.shape[0] % 2 else last
        last = np.concatenate([last, last[:, -1:]], axis=1) if last.shape[1] % 2 else last
        mean = last.reshape(last.shape[0] // 2, 2, last.shape[1] // 2, 2, 3).mean(axis=(1, 3))
        levels.append(np.floor(mean + 0.5).astype(np.uint8))
    return levels


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (64, 32), (67, 131)])
def test_pyramid_has_every_level_and_tile(tmp_path, monkeypatch, height, width):
    monkeypatch.setattr(pyramid, "TILE", 16)
    monkeypatch.setattr(pyramid, "JPEG", {"format": "PNG"})  # so that levels can be compared exactly
    pixels = picture(height, width)
    files = write_picture(tmp_path / "a.dzi", height, width, cut(pixels, [5, 1, 20]))
    assert files == [tmp_path / "a.html", tmp_path / "a.dzi"]
    assert names(tmp_path) == ["a.dzi", "a.html", "a_files"]
    expected = levels_of(pixels)[::-1]
    assert names(tmp_path / "a_files") == sorted(str(level) for level in range(len(expected)))
    for level, image in enumerate(expected):
        folder = tmp_path / "a_files" / str(level)
        found = {}
        for path in folder.iterdir():
            with Image.open(path) as tile:
                found[path.name] = np.asarray(tile)
        assert len(found) == -(-image.shape[0] // 16) * -(-image.shape[1] // 16)
        for name, tile in found.items():
            column, row = map(int, re.fullmatch(r"(\d+)_(\d+)\.jpg", name).groups())
            assert np.array_equal(tile, image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16])
    assert expected[0].shape == (1, 1, 3)


def test_pyramid_tiles_are_good_jpegs(tmp_path):
    pixels = np.repeat(np.repeat(picture(70, 75), 8, axis=0), 8, axis=1)
    write_picture(tmp_path / "a.dzi", 560, 600, cut(pixels, [100]))
    with Image.open(tmp_path / "a_files" / "10" / "1_1.jpg") as tile:
        assert tile.format == "JPEG" and tile.size == (88, 48)
        assert np.abs(np.asarray(tile).astype(int) - pixels[512:, 512:]).max() <= 12  # worst seen 6


def test_dzi_and_page_say_the_same(tmp_path):
    write_picture(tmp_path / "x.dzi", 600, 40, [np.zeros((600, 40, 3), np.uint8)])
    root = xml.parse(tmp_path / "x.dzi").getroot()
    space = "{http://schemas.microsoft.com/deepzoom/2008}"
    assert root.tag == f"{space}Image" and root.attrib == {"Format": "jpg", "Overlap": "0", "TileSize": "512"}
    assert root.find(f"{space}Size").attrib == {"Width": "40", "Height": "600"}
    page = (tmp_path / "x.html").read_text()
    facts = json.loads(re.search(r"const picture = (.*);", page).group(1))
    assert facts == {"tiles": "x_files", "width": 40, "height": 600, "tile": 512, "top": 10}
    assert page.count("<title>x</title>") == 1
    # Browsers load nothing but tiles beside the page: from a disk, they refuse all else.
    assert not re.search(r"https?:|//\w|@import|<link|src\s*=\s*[\"']|fetch\(|XMLHttp|import\s*\(|<iframe|\{\{", page)


def test_any_name_may_be_a_page(tmp_path):
    write_picture(tmp_path / "1 <i>&#?.dzi", 1, 1, [np.zeros((1, 1, 3), np.uint8)])
    page = (tmp_path / "1 <i>&#?.html").read_text()
    assert "<title>1 &lt;i&gt;&amp;#?</title>" in page and '"tiles": "1%20%3Ci%3E%26%23%3F_files"' in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of letters alone")
def test_a_page_of_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff<script>{{picture}}.dzi")
    write_picture(path, 1, 1, [np.zeros((1, 1, 3), np.uint8)])
    page = path.with_suffix(".html").read_text()
    assert "<title>\ufffd&lt;script&gt;{{picture}}</title>" in page and page.count("<script>") == 1
    assert '"tiles": "%FF%3Cscript%3E%7B%7Bpicture%7D%7D_files"' in page


def test_a_new_pyramid_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.dzi"
    write_picture(path, 40, 600, [picture(40, 600)])
    write_picture(path, 4, 6, [picture(4, 6)])
    assert names(tmp_path) == ["a.dzi", "a.html", "a_files"]
    assert names(tmp_path / "a_files") == ["0", "1", "2", "3"] and 'Width="6"' in path.read_text()


def test_a_folder_that_is_no_pyramid_stays(tmp_path):
    (tmp_path / "a_files").mkdir()
    (tmp_path / "a_files" / "holiday.jpg").write_bytes(b"dear")
    for call in (check_picture, lambda *args: write_picture(*args, [picture(4, 6)])):
        with pytest.raises(FileExistsError, match="a_files must be the folder of an earlier pyramid"):
            call(tmp_path / "a.dzi", 4, 6)
    assert (tmp_path / "a_files" / "holiday.jpg").read_bytes() == b"dear" and names(tmp_path) == ["a_files"]


# --- whole or not at all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "dzi", "jpg"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the automaton blew up")])
def test_an_error_half_way_leaves_the_old_picture(tmp_path, ending, error):
    def blocks():
        yield picture(600, 40)
        raise error

    path = tmp_path / f"a.{ending}"
    write_picture(path, 3, 2, [picture(3, 2)])
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(type(error)):
        write_picture(path, 800, 40, blocks())
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_full_disk_leaves_no_half_pyramid(tmp_path, monkeypatch):
    save, saved = Image.Image.save, []

    def full(self, *args, **options):
        saved.append(args)
        if len(saved) == 3:
            raise OSError(28, os.strerror(28))
        save(self, *args, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="cannot write .*a_files.*No space left on device"):
        write_picture(tmp_path / "a.dzi", 600, 600, [picture(600, 600)])
    assert names(tmp_path) == [] and len(saved) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("write", [png.write_png, tiff.write_tiff])
def test_a_full_disk_is_an_error(write):
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"), 600, 600, [picture(600, 600)])


@pytest.mark.parametrize("ending", ["png", "tif", "dzi", "jpg", "webp"])
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "must have 6 rows together, but got 0"),
        ([np.zeros((5, 4, 3), np.uint8)], "must have 6 rows together, but got 5"),
        ([np.zeros((5, 4, 3), np.uint8)] * 2, "must have 6 rows together, but got 10 or more"),
        ([np.zeros((2, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], r"\[rows, 4, 3\], but got uint8 \[4, 5, 3\]"),
        ([np.zeros((6, 4, 3), np.float32)], r"must be uint8 \[rows, 4, 3\], but got float32"),
        ([np.zeros((6, 4), np.uint8)], r"but got uint8 \[6, 4\] after 0 rows"),
    ],
)
def test_blocks_must_make_up_the_picture(tmp_path, ending, blocks, message):
    with pytest.raises(ValueError, match=message):
        write_picture(tmp_path / f"a.{ending}", 6, 4, blocks)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "height", "width", "message"),
    [
        ("a.bmp", 1, 1, "must end in one of .png, .jpg, .jpeg, .webp, .tif, .tiff, .dzi, but got .*a.bmp"),
        ("a.png", 0, 5, "at least 1 pixel, but got 0 and 5"),
        (
            "a.jpg",
            65501,
            5,
            "sides of a .jpg must be at most 65500 .* is 65501 x 5. Write .png or .tif or",
        ),
        ("a.webp", 5, 16384, "sides of a .webp must be at most 16383"),
        ("a.png", 2**31, 5, "sides of a .png must be at most 2147483647 .* Render a smaller picture"),
        ("a.tif", 5, 2**31, "sides of a .tif must be at most 2147483647"),
    ],
)
def test_what_a_format_does_not_have_is_refused_at_once(tmp_path, name, height, width, message):
    with pytest.raises(ValueError, match=message):
        write_picture(tmp_path / name, height, width, iter(()))
    assert names(tmp_path) == []


@pytest.mark.parametrize(("name", "side"), [("a.jpg", 65500), ("a.webp", 16383)])
def test_the_largest_side_of_a_format_can_be_written(tmp_path, name, side):
    check_picture(tmp_path / name, side, 1)
    write_picture(tmp_path / name, side, 1, [np.zeros((side, 1, 3), np.uint8)])
    with Image.open(tmp_path / name) as image:
        assert image.size == (1, side)


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "dzi", "jpg", "webp"])
@pytest.mark.parametrize("kind", ["noise", "black and white"])
def test_no_picture_takes_more_room_than_was_said(tmp_path, ending, kind):
    """Noise is what compresses worst; for a JPEG it is noise of black and white."""
    noise = np.random.default_rng(0).integers(0, 256, (530, 521, 3), dtype=np.uint8)
    pixels = noise if kind == "noise" else (noise // 128) * 255
    folder = tmp_path / "room"
    folder.mkdir()
    write_picture(folder / f"a.{ending}", 530, 521, [pixels])
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in tmp_path.rglob("*"))
    limit = FORMATS[f".{ending}"].bytes_needed(530, 521)
    assert taken <= limit + 8192  # the folder itself and the page
    assert limit < 2.5 * pixels.nbytes


@pytest.mark.parametrize("ending", ["png", "tif", "dzi"])
def test_memory_does_not_grow_with_the_rows(tmp_path, ending):
    """36 MB of pixels. Worst seen 10.0 MB, of a pyramid: 512 rows, and the halves of those."""
    rows = picture(50, 2000)
    path = tmp_path / f"a.{ending}"
    write_picture(path, 50, 2000, [rows])  # imports and buffers that stay
    tracemalloc.start()
    write_picture(path, 6000, 2000, (rows for _ in range(120)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < FORMATS[path.suffix].bytes_held(6000, 2000) < 20e6


def test_regrouped_rows_are_the_same_picture():
    pixels = picture(23, 4)
    for rows in (1, 5, 23, 40):
        groups = list(row_blocks.regrouped(cut(pixels, [3, 7, 1]), rows))
        assert [len(group) for group in groups] == [rows] * (23 // rows) + [23 % rows] * (23 % rows > 0)
        assert np.array_equal(np.concatenate(groups), pixels)


def test_all_endings_have_a_bound():
    for kind in FORMATS.values():
        assert kind.bytes_needed(1, 1) >= 3 and kind.bytes_held(100, 100) >= 30000
