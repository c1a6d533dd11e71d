"""Films as MP4 (H.264) or GIF: the only module that knows ffmpeg."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import GifImagePlugin, Image

from nca_fast.files import atomic_path
from nca_fast.media.images import to_uint8

MP4_SIDE = 16384  # x264 takes no more,
MP4_AREA = 2**28  # and ffmpeg wants (height + 128) * (width + 128) below this
GIF_SIDE = 65535


def check_film(path: str | os.PathLike, height: int, width: int) -> None:
    """Refuse frames, of so many pixels, that the format does not take. (Many players stop at 4096 x 2304.)

    Raises:
        ValueError: a side or the area is too large.
    """
    if Path(path).suffix.lower() == ".gif":
        if max(height, width) > GIF_SIDE:
            raise ValueError(f"sides of a GIF must be at most {GIF_SIDE} pixels, but frames are {height} x {width}.")
    elif max(height, width) > MP4_SIDE or (height + 129) * (width + 129) >= MP4_AREA:  # an odd side grows by one
        raise ValueError(
            f"frames of an MP4 must have sides of at most {MP4_SIDE} and some {MP4_AREA // 10**6} million pixels, but "
            f"they are {height} x {width}. Film a smaller canvas, or write a picture of the end."
        )


class VideoWriter:
    """Write frames one by one, and hold none; the file appears when the block ends without an error, and not otherwise.

        with VideoWriter("texture.mp4", fps=30) as video:
            video.add(frame)

    MP4 is H.264 with 4:2:0 colour, which every browser and phone plays and which needs even sides: an odd side gets its
    last row or column twice. GIF has 256 colours per frame, chosen frame by frame, and counts time in 1/100 s: frame
    times alternate so that the film as a whole keeps its speed.

    Args:
        path: a name that ends in .mp4 or .gif.
        fps: frames per second, above 0; at most 50 for GIF, because players slow shorter frames down to 10 a second.

    Raises:
        ValueError: wrong ending or fps; a frame of another size, or too large (`check_film`); no frames.
        OSError: the file cannot be written.
        ImportError: MP4 without imageio-ffmpeg.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30):
        self.path = Path(path)
        self.fps = fps
        self._suffix = self.path.suffix.lower()
        if self._suffix not in (".mp4", ".gif"):
            raise ValueError(f"the film's name must end in .mp4 or .gif, but got {os.fspath(path)!r}.")
        if not 0 < fps <= (50 if self._suffix == ".gif" else 1000):
            raise ValueError(
                f"fps must be above 0 and at most 50 for GIF, 1000 for MP4, but got {fps} for {self._suffix}."
            )
        self._open: contextlib.ExitStack | None = None

    def __enter__(self):
        self._executable = _find_ffmpeg() if self._suffix == ".mp4" else None
        self._shape: tuple[int, ...] | None = None
        self._frames = 0
        self._encoder: subprocess.Popen | None = None
        self._open = contextlib.ExitStack()
        self._temporary = self._open.enter_context(atomic_path(self.path))
        if self._suffix == ".gif":
            self._gif = self._open.enter_context(open(self._temporary, "wb"))
        else:
            self._log = self._open.enter_context(tempfile.TemporaryFile())
        return self

    def add(self, frame: torch.Tensor) -> None:
        """Append one frame.

        Args:
            frame: [3, H, W] float in [0, 1], the same size each time.
        """
        if self._open is None:
            raise ValueError("frames can be added only inside a `with VideoWriter(...)` block.")
        pixels = to_uint8(frame)
        if self._shape is None:
            check_film(self.path, *pixels.shape[:2])
            self._shape = pixels.shape
        if pixels.shape != self._shape:
            raise ValueError(f"all frames must be {self._shape[:2]} (height, width), but got {pixels.shape[:2]}.")
        if self._suffix == ".gif":
            self._add_to_gif(pixels)
            return
        pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._encoder is None:
            self._encoder = self._start_ffmpeg(*pixels.shape[:2])
        try:
            self._encoder.stdin.write(pixels.tobytes())
        except BrokenPipeError:
            self._finish_ffmpeg()

    def __exit__(self, kind, error, trace) -> None:
        stack, self._open = self._open, None
        if error is not None:
            if self._encoder is not None:
                self._encoder.kill()
                self._encoder.communicate()
            stack.__exit__(kind, error, trace)
            return
        with stack:  # an error below makes atomic_path drop the temporary file
            if self._shape is None:
                raise ValueError(f"a film needs at least one frame, but {str(self.path)!r} got none.")
            if self._suffix == ".gif":
                self._gif.write(b";")
            else:
                self._finish_ffmpeg()

    def _start_ffmpeg(self, height: int, width: int) -> subprocess.Popen:
        # imageio-ffmpeg's own writer drops ffmpeg's exit status, and with it a full disk; so only its binary is used.
        frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self.fps), "-i", "-"]
        film = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]
        return subprocess.Popen(
            [self._executable, "-y", "-v", "error", *frames, "-an", *film, str(self._temporary)],
            stdin=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for Python, which may want to finish the film
        )

    def _finish_ffmpeg(self) -> None:
        """Close the film; raise OSError when ffmpeg says that it failed."""
        encoder, self._encoder = self._encoder, None
        encoder.communicate()
        if encoder.returncode != 0:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"ffmpeg failed with status {encoder.returncode}: {lines[-1] if lines else 'no message'}")

    def _add_to_gif(self, pixels: np.ndarray) -> None:
        # Image.save(save_all=True) would hold all frames until the last has come.
        if self._frames == 0:
            height, width, _ = pixels.shape
            self._gif.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))  # every frame has its colors
            self._gif.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # played over and over
        ticks = [round(100 * index / self.fps) for index in (self._frames, self._frames + 1)]
        frame = Image.fromarray(pixels).quantize(256)
        duration = 10 * (ticks[1] - ticks[0])
        self._gif.write(b"".join(GifImagePlugin.getdata(frame, duration=duration, include_color_table=True)))
        self._frames += 1


def _find_ffmpeg() -> str:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ImportError("MP4 needs ffmpeg: pip install imageio-ffmpeg; or write a .gif.") from error
