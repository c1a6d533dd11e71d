import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from nca_fast.media import film as media_film
from nca_fast.media.film import VideoWriter, even_speed, speed_ramp

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def read_mp4(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return meta, frames


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1)])
def test_mp4_keeps_frames_speed_and_odd_sizes(tmp_path, size):
    path = tmp_path / "a.mp4"
    levels = [0.2, 0.5, 0.8]
    with VideoWriter(path, fps=12) as film:
        for level in levels:
            film.add(torch.full((3, *size), level))
        assert not path.exists()
    meta, frames = read_mp4(path)
    assert meta["fps"] == 12 and len(frames) == 3
    assert frames[0].shape[:2] == tuple(side + side % 2 for side in size)
    for level, frame in zip(levels, frames, strict=True):
        assert abs(frame.mean() / 255 - level) < 0.02  # limited-range YUV and compression; worst seen 0.004
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_has_the_colors_of_a_png(tmp_path):
    """Flat patches: limited range, rounding and x264 at this quality; worst seen 2.5 levels (40 as BT.601)."""
    colors = torch.tensor(
        [*itertools.product((0, 0.5, 1), repeat=3), (0.9, 0.2, 0.1), (0.1, 0.4, 0.3), (0.8, 0.7, 0.6)]
    )
    patches = colors.reshape(6, 5, 3).permute(2, 0, 1)
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=12) as film:
        for _ in range(3):
            film.add(patches.repeat_interleave(32, 1).repeat_interleave(32, 2))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-vf"]
    command += ["scale=in_color_matrix=bt709:in_range=tv", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]  # as players
    frames = np.frombuffer(subprocess.run(command, capture_output=True).stdout, np.uint8).reshape(3, 192, 160, 3)
    assert np.abs(frames[1, 16::32, 16::32] - 255 * patches.permute(1, 2, 0).numpy()).max() < 3
    shown = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True).stderr.decode()
    assert re.search(r"Video: h264.*yuv420p\(tv, bt709, ", shown)  # one name: matrix, primaries and curve alike


def test_a_gif_of_many_colors_is_close_and_quick_to_choose_them(tmp_path):
    """Smooth colours and stripes of one pixel; a cut of all pixels is 6.3 levels off (rms), that of some 8.4,
    that of every other column 27."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 160), torch.linspace(0, 1, 200), indexing="ij")
    stripes = torch.arange(200) % 2 * 0.3
    frame = torch.stack([x, y, (x + y) / 2 * 0.7 + stripes])
    with VideoWriter(tmp_path / "a.gif", fps=25) as film:
        film.add(frame)
    with Image.open(tmp_path / "a.gif") as image:
        error = np.asarray(image.convert("RGB")) - 255 * frame.permute(1, 2, 0).numpy()
    assert np.sqrt(np.square(error).mean()) < 10


def fake_ffmpeg(tmp_path, monkeypatch, encoders):
    path = tmp_path / "fake-ffmpeg"
    path.write_text(f"#!/bin/sh\necho '{encoders}'\n")
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


@pytest.mark.parametrize("lack", ["package", "x264", "file"])
def test_a_missing_encoder_is_said_at_once(tmp_path, monkeypatch, lack):
    if lack == "package":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    elif lack == "x264":
        fake_ffmpeg(tmp_path, monkeypatch, " V....D mpeg4    MPEG-4 part 2")
    else:
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(ImportError, match="MP4 needs .*ffmpeg.*pip install imageio-ffmpeg.*or write a .gif"):
        media_film.check_film(tmp_path / "a.mp4", 4, 4)
    assert "pip install imageio-ffmpeg" in media_film.missing_encoder("a.mp4")
    assert media_film.missing_encoder("a.gif") is None


def test_an_encoder_that_is_there(tmp_path, monkeypatch):
    assert media_film.missing_encoder("a.mp4") is None
    fake_ffmpeg(tmp_path, monkeypatch, " V....D libx264   H.264")
    assert media_film.missing_encoder("a.mp4") is None


def test_gif_keeps_frames_and_duration(tmp_path):
    with VideoWriter(str(tmp_path / "a.GIF"), fps=30) as film:
        for level in np.linspace(0, 1, 9):
            film.add(torch.full((3, 5, 7), float(level)))
    total = 0
    with Image.open(tmp_path / "a.GIF") as image:
        assert image.n_frames == 9 and image.size == (7, 5) and image.info["loop"] == 0
        for index in range(9):
            image.seek(index)
            total += image.info["duration"]
            assert abs(np.asarray(image.convert("RGB")).mean() / 255 - index / 8) < 0.51 / 255
    assert total == 300  # 9 frames at 30 a second, to the nearest 1/100 s


def test_gif_frames_have_their_own_colors_and_go_to_the_disk(tmp_path):
    """100 frames of 256 x 256 would be 6.5 MB; worst seen 0.7 MB."""
    frames = (torch.rand(3, 4, 1, generator=torch.manual_seed(n)).expand(3, 4, 256) for n in range(100))
    tracemalloc.start()
    with VideoWriter(tmp_path / "a.gif", fps=25) as film:
        for frame in frames:
            film.add(frame.repeat_interleave(64, 1))
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 100
        for n in (0, 7, 99):
            image.seek(n)
            colors = torch.rand(3, 4, generator=torch.manual_seed(n)).mul(255).round().to(torch.uint8).T.numpy()
            assert np.array_equal(np.asarray(image.convert("RGB"))[32::64, 100], colors)
            assert image.info["duration"] == 40


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("a.mp4", 16385, 2), ("a.mp4", 2, 16386), ("a.mp4", 16384, 16384), ("a.gif", 65536, 2)],
)
def test_frames_that_no_encoder_takes(tmp_path, name, height, width):
    with pytest.raises(ValueError, match=f"sides of .*{height} x {width}"):
        media_film.check_film(name, height, width)
    if height * width < 10**6:
        with pytest.raises(ValueError, match="sides of"), VideoWriter(tmp_path / name) as film:
            film.add(torch.zeros(3, height, width))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "side"), [("a.mp4", 16384), ("a.gif", 65535)])
def test_the_longest_frames(tmp_path, name, side):
    with VideoWriter(tmp_path / name) as film:
        film.add(torch.zeros(3, 2, side))
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("ending", ["mp4", "gif"])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path, ending, error):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), VideoWriter(path) as film:
        film.add(torch.zeros(3, 16, 16))
        raise error
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_leaves_no_half_written_gif(tmp_path, monkeypatch):
    def full(frame, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(media_film.GifImagePlugin, "getdata", full)
    with (
        pytest.raises(OSError, match="cannot write .*a.gif.*No space left on device"),
        VideoWriter(tmp_path / "a.gif") as film,
    ):
        film.add(torch.zeros(3, 4, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_written_mp4(tmp_path, monkeypatch):
    assert media_film.missing_encoder("a.mp4") is None  # the answer is kept, and the ffmpeg below has no encoders

    class FullDisk(media_film.subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([*command[:-1], "-f", "mp4", "/dev/full"], **options)

    monkeypatch.setattr(media_film.subprocess, "Popen", FullDisk)
    frames = torch.rand(40, 3, 64, 64)
    with pytest.raises(OSError, match="cannot write .*a.mp4.*ffmpeg failed"), VideoWriter(tmp_path / "a.mp4") as film:
        for frame in frames:
            film.add(frame)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_dying_half_way_is_one_clear_error(tmp_path):
    with (
        pytest.raises(OSError, match="cannot write .*a.mp4.*ffmpeg failed with status"),
        VideoWriter(tmp_path / "a.mp4") as film,
    ):
        film.add(torch.zeros(3, 256, 256))
        film.film.encoder.kill()
        for _ in range(50):
            film.add(torch.zeros(3, 256, 256))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_ffmpeg_starts_leaves_neither_it_nor_a_file(tmp_path, monkeypatch):
    """It comes before anybody knows of the process, which would make the file anew that is about to be removed."""
    started, start = [], subprocess.Popen

    def interrupted(*arguments, **options):
        started.append(start(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return started[-1]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4") as writer:
            monkeypatch.setattr(media_film.subprocess, "Popen", interrupted)
            writer.add(torch.zeros(3, 8, 8))
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].poll() is not None and list(tmp_path.iterdir()) == []


def test_wrong_use(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must end in .mp4 or .gif, but got"):
        VideoWriter(tmp_path / "a.avi")
    for name, fps in (("a.mp4", 0), ("a.mp4", float("nan")), ("a.gif", 60)):
        with pytest.raises(ValueError, match=f"fps must be above 0 and at most [0-9]+ for {name[1:]}, but got {fps}"):
            VideoWriter(tmp_path / name, fps=fps)
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "a.mp4"):
        pass
    with pytest.raises(ValueError, match="only inside"):
        VideoWriter(tmp_path / "a.gif").add(torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"all frames must be \(2, 2\)"), VideoWriter(tmp_path / "a.gif") as film:
        film.add(torch.zeros(3, 2, 2))
        film.add(torch.zeros(3, 2, 3))
    with pytest.raises(FileNotFoundError, match="cannot write"), VideoWriter(tmp_path / "no" / "a.gif"):
        pass
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with (
        pytest.raises(ImportError, match="pip install imageio-ffmpeg; or write a .gif"),
        VideoWriter(tmp_path / "a.mp4"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_speed_ramp_is_that_of_the_notebook():
    notebook = [min(2 ** (k // 30), 8) for k in range(300)]
    assert speed_ramp(sum(notebook)) == notebook


@pytest.mark.parametrize("steps", [1, 29, 30, 31, 500])
def test_speeds_sum_to_the_steps(steps):
    assert sum(speed_ramp(steps)) == steps
    assert sum(even_speed(steps, 7)) == steps
    assert min(speed_ramp(steps) + even_speed(steps, 7)) >= 1
