"""Films as MP4 (H.264) or GIF, and how fast they run: the only module that knows ffmpeg."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import GifImagePlugin, Image

from nca_fast.files import atomic_path
from nca_fast.media.images import to_uint8

# Numbers of sRGB become those of HDTV, and the film says so: players take a film that does not by its size for one or
# the other, and some colours are then off by 40 of 255.
_COLORS = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bicubic"
_COLORS += ",setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"  # as of ffmpeg 7
# For older ones.
_TAGS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
FASTEST = 8  # steps between two frames of a film whose speed is not given
MOST_FRAMES = 10**7  # 92 hours
_PALETTE_PIXELS = 2**13  # of a frame of a GIF choose its 256 colours


class Mp4:
    """An MP4 that is being written: bytes of frames in, through a pipe to ffmpeg."""

    fastest = 1000  # frames per second

    @staticmethod
    def encoder_path() -> str:
        """Finds an ffmpeg with x264. Raises ImportError where there is none."""
        try:
            import imageio_ffmpeg

            path = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise ImportError("MP4 needs ffmpeg: pip install imageio-ffmpeg; or write a .gif.") from error
        if not _has_x264(path):
            raise ImportError(
                f"MP4 needs an ffmpeg with x264, which {path!r} is not: pip install imageio-ffmpeg, and leave "
                "IMAGEIO_FFMPEG_EXE unset; or write a .gif."
            )
        return path

    @staticmethod
    def check(height: int, width: int) -> None:
        """Refuses sides above the 16384 of x264 and areas (height + 128) * (width + 128) above the 2**28 of ffmpeg."""
        if max(height, width) > 16384 or (height + 129) * (width + 129) >= 2**28:  # an odd side grows by one
            raise ValueError(
                "frames of an MP4 must have sides of at most 16384 and some 268 million pixels, but they are "
                f"{height} x {width}. Film a smaller canvas, or write a picture of the end."
            )

    def __init__(self, path: Path, fps: float):
        self._executable, self._path, self._fps = self.encoder_path(), path, fps
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (see close)
        self.encoder: subprocess.Popen | None = None
        self._starter = ThreadPoolExecutor(1)  # Ctrl-C ends no thread between the start of ffmpeg and its being known

    def add(self, pixels: np.ndarray) -> None:
        """Appends a frame, uint8 [H, W, 3]."""
        pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self.encoder is None:
            self._start(*pixels.shape[:2])
        try:
            self.encoder.stdin.write(pixels.tobytes())
        except BrokenPipeError:
            self.finish()

    def finish(self) -> None:
        """Completes the film; raises OSError when ffmpeg says that it failed."""
        self.encoder.communicate()
        if self.encoder.returncode != 0:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise OSError(
                f"ffmpeg failed with status {self.encoder.returncode}: {lines[-1] if lines else 'no message'}"
            )

    def close(self) -> None:
        """Lets go of everything, whether the film is complete or not."""
        self._starter.shutdown()
        if self.encoder is not None and self.encoder.poll() is None:
            self.encoder.kill()
            self.encoder.communicate()
        self._log.close()

    def _start(self, height: int, width: int) -> None:
        # imageio-ffmpeg's own writer drops ffmpeg's exit status, and with it a full disk; so only its binary is used.
        frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._fps), "-i", "-"]
        film = ["-vf", _COLORS, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", *_TAGS]
        film += ["-movflags", "+faststart"]
        command = [self._executable, "-y", "-v", "error", *frames, "-an", *film, str(self._path)]
        self._starter.submit(self._run, command).result()

    def _run(self, command: list[str]) -> None:
        self.encoder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for Python, which may want to finish the film
        )


@functools.cache
def _has_x264(executable: str) -> bool:
    """Asks an ffmpeg for its encoders."""
    try:
        asked = subprocess.run([executable, "-hide_banner", "-encoders"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b" libx264 " in asked.stdout


class Gif:
    """A GIF that is being written, frame by frame: Image.save(save_all=True) would hold them all."""

    fastest = 50  # frames per second: players slow faster ones down to 10

    @staticmethod
    def check(height: int, width: int) -> None:
        """Refuses sides of more than 16 bits."""
        if max(height, width) > 65535:
            raise ValueError(f"sides of a GIF must be at most 65535 pixels, but frames are {height} x {width}.")

    def __init__(self, path: Path, fps: float):
        self._file, self._fps, self._frames = open(path, "wb"), fps, 0  # noqa: SIM115 (see close)

    def add(self, pixels: np.ndarray) -> None:
        """Appends a frame, uint8 [H, W, 3]."""
        if self._frames == 0:
            height, width, _ = pixels.shape
            self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))  # every frame has its colors
            self._file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # played over and over
        ticks = [round(100 * index / self._fps) for index in (self._frames, self._frames + 1)]
        frame = _with_palette(pixels)
        duration = 10 * (ticks[1] - ticks[0])
        self._file.write(b"".join(GifImagePlugin.getdata(frame, duration=duration, include_color_table=True)))
        self._frames += 1

    def finish(self) -> None:
        """Completes the film."""
        self._file.write(b";")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _with_palette(pixels: np.ndarray) -> Image.Image:
    """Gives a frame its own 256 colours: all that it has, or by the median cut of some of its pixels.

    A cut of all of them takes 2 to 30 times as long, for 5 to 15 % less error on photos (bench/NOTES.md).
    """
    frame = Image.fromarray(pixels)
    if frame.getcolors(256) is not None or pixels.shape[0] * pixels.shape[1] <= _PALETTE_PIXELS:
        return frame.quantize(256)
    # At random, because a grid would miss the colours between its lines in a striped texture.
    flat = pixels.reshape(-1, 3)
    some = flat[np.random.default_rng(0).integers(0, len(flat), _PALETTE_PIXELS)]
    palette = Image.fromarray(some[None]).quantize(256)
    return frame.quantize(palette=palette, dither=Image.Dither.NONE)


FILMS: dict[str, type[Mp4 | Gif]] = {".mp4": Mp4, ".gif": Gif}


def check_film(path: str | os.PathLike, height: int, width: int) -> None:
    """Refuses frames, of so many pixels, that the format does not take. (Many players stop at 4096 x 2304.)

    Raises:
        ValueError: wrong ending; a side or the area is too large.
        ImportError: there is no encoder.
    """
    kind = _film_format(path)
    kind.check(height, width)
    if kind is Mp4:
        kind.encoder_path()


def missing_encoder(path: str | os.PathLike) -> str | None:
    """Says why no film of that name can be written here, and what to do; None where one can."""
    try:
        check_film(path, 2, 2)
    except ImportError as error:
        return str(error)
    return None


def _film_format(path: str | os.PathLike) -> type[Mp4 | Gif]:
    suffix = Path(path).suffix.lower()
    if suffix not in FILMS:
        raise ValueError(f"the film's name must end in {' or '.join(FILMS)}, but got {os.fspath(path)!r}.")
    return FILMS[suffix]


class VideoWriter:
    """Writes frames one by one and holds none. The file appears when the block ends without an error, not otherwise.

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
        ImportError: MP4 without ffmpeg and x264.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30):
        self.path, self.fps = Path(path), fps
        self._format = _film_format(path)
        if not 0 < fps <= self._format.fastest:
            limit = f"{self._format.fastest} for {self.path.suffix.lower()}"
            raise ValueError(f"fps must be above 0 and at most {limit}, but got {fps}.")
        self.film: Mp4 | Gif | None = None  # while the block is open

    def __enter__(self):
        self._shape: tuple[int, ...] | None = None
        with contextlib.ExitStack() as stack:  # which is left at once on an error
            temporary = stack.enter_context(atomic_path(self.path))
            self.film = self._format(temporary, self.fps)
            stack.callback(self.film.close)
            self._open = stack.pop_all()
        return self

    def add(self, frame: torch.Tensor) -> None:
        """Appends one frame.

        Args:
            frame: [3, H, W] float in [0, 1], the same size each time.
        """
        if self.film is None:
            raise ValueError("frames can be added only inside a `with VideoWriter(...)` block.")
        pixels = to_uint8(frame)
        if self._shape is None:
            check_film(self.path, *pixels.shape[:2])
            self._shape = pixels.shape
        if pixels.shape != self._shape:
            raise ValueError(f"all frames must be {self._shape[:2]} (height, width), but got {pixels.shape[:2]}.")
        self.film.add(pixels)

    def __exit__(self, kind, error, trace) -> None:
        film, self.film = self.film, None
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:  # an error below makes atomic_path drop the temporary file
            if self._shape is None:
                raise ValueError(f"a film needs at least one frame, but {str(self.path)!r} got none.")
            film.finish()


def check_length(steps: int, steps_per_frame: int | None) -> None:
    """Raises ValueError for more frames than anybody watches: their numbers alone would fill the memory."""
    frames = -(-steps // (steps_per_frame or FASTEST))
    if frames > MOST_FRAMES:
        raise ValueError(
            f"a film must have at most {MOST_FRAMES} frames, but {steps} steps make {frames}. Take fewer steps, or "
            "more for each frame (--steps-per-frame)."
        )


def speed_ramp(steps: int, frames_per_speed: int = 30, fastest: int = FASTEST) -> list[int]:
    """Chooses how many steps lie between the frames of a film: 1 at first, where most happens, then 2, 4, and 8.

    Source: the video of the Distill texture notebook, min(2 ** (k // 30), 8) steps before frame k.

    Args:
        steps: Total number of steps; the last frame takes what is left of them.
        frames_per_speed: Frames until the speed doubles.
        fastest: Steps between two frames, at most.

    Returns:
        Positive numbers that sum to `steps`.
    """
    frames = []
    speed = 1
    while steps > 0:
        frames.append(min(speed, steps))
        steps -= frames[-1]
        if len(frames) % frames_per_speed == 0:
            speed = min(2 * speed, fastest)
    return frames


def even_speed(steps: int, steps_per_frame: int) -> list[int]:
    """Does as `speed_ramp`, with the same number of steps between all frames; the last takes what is left."""
    return [min(steps_per_frame, steps - done) for done in range(0, steps, steps_per_frame)]
