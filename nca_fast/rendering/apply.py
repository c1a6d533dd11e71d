"""A trained automaton applied to pictures that it never saw: files in, files out."""

import os
from pathlib import Path

from torch import Tensor

from nca_fast import checkpoint
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.files import check_writable
from nca_fast.media.decoding import HEIF_ENDINGS, picture_files
from nca_fast.media.film import FILMS
from nca_fast.media.images import load_straight, load_with_alpha
from nca_fast.nca import NCA
from nca_fast.pretrained import model_file
from nca_fast.rendering.film import film
from nca_fast.rendering.finish import Finish
from nca_fast.rendering.picture import picture
from nca_fast.rendering.size import shown_steps


def steps_of(model: str | Path) -> int:
    """Reads after how many steps the picture of an automaton is there, by what its file says.

    Raises:
        ValueError: The file does not say. Others as `checkpoint.load_metadata`.
    """
    path = model_file(model)
    steps = shown_steps(checkpoint.facts_of(path))
    if steps is None:
        raise ValueError(f"steps must be given, because {path} does not say how many its training showed.")
    return steps


def apply(
    nca: NCA,
    source: str | Path,
    out: str | Path,
    steps: int,
    *,
    strength: float = 1.0,
    preserve_color: bool = False,
    max_size: int | None = None,
    seed: int = 0,
    backend: str | None = None,
    precision: str | None = None,
    steps_per_frame: int = 1,
    fps: int = 30,
    memory: str | None = None,
    progress: bool = False,
) -> tuple[list[Path], list[str]]:
    """Lets an automaton change a picture, or all pictures of a folder.

    Args:
        nca: An automaton that starts from a picture, on the device that shall compute.
        source: Picture file, "skimage:NAME", or a folder: the picture files in it, not those of its folders.
        out: For a picture, the file to write: .png, .tif, .dzi, .jpg, .webp, or .mp4 or .gif for a film that begins
            with the picture as it was. For a folder, the folder to write to: a .png for each picture, of the same name.
            What is transparent stays so in .png, .tif and .webp; the others show it on white.
        steps: Updates of every cell.
        strength, preserve_color: As in `Finish`: 0 writes the picture as it was, and 1 what the automaton made of it.
        max_size: Longest side in pixels, to which larger pictures are shrunk; None: as large as they are.
        seed: Fixes the noise of the start state and all fire masks.
        backend, precision: As in `nca_fast.rollout`.
        steps_per_frame: Film: steps between two frames.
        fps: Film: frames per second.
        memory: That the canvas may take, as in `CanvasConfig`.
        progress: Show progress bars on stderr.

    Returns:
        The files written, and for each picture of a folder that was passed over, why.

    Raises:
        ValueError: The strength is not from 0 to 1; the automaton does not start from a picture; the picture cannot be
            read, or does not fit into memory; two pictures of a folder would get the same name; the folder holds no
            pictures.
        OSError: The result cannot be written.
    """
    if nca.start != "image":
        raise ValueError(f"the automaton must start from a picture, but this one starts from {nca.start}: render it.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, but got {strength}.")
    out, how = Path(out), {"seed": seed, "backend": backend, "precision": precision}
    how["config"] = CanvasConfig(memory=memory)
    if not os.path.isdir(source):
        check_writable(out.parent)
        image, shown = _opened(source, max_size, strength, preserve_color)
        scene = Scene(nca, *image.shape[1:], steps, image=image, **how)
        if out.suffix.lower() in FILMS:
            return film(scene, out, **shown, steps_per_frame=steps_per_frame, fps=fps, progress=progress), []
        return picture(scene, out, **shown, progress=progress), []

    files = picture_files(source)
    targets = [out / f"{file.stem}.png" for file in files]
    if not files:
        raise ValueError(f"the folder must hold pictures, but {os.fspath(source)!r} holds none.")
    names = [file.stem for file in files if file.suffix.lower() not in HEIF_ENDINGS]  # they are passed over
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"pictures must differ in more than the endings of their names, unlike {', '.join(twice)}.")
    if out.resolve() == Path(source).resolve():
        raise ValueError(f"out must be another folder than that of the pictures, but both are {os.fspath(source)!r}.")
    check_writable(out)
    written, passed_over = [], []
    for file, target in zip(files, targets, strict=True):
        try:
            image, shown = _opened(file, max_size, strength, preserve_color)
            scene = Scene(nca, *image.shape[1:], steps, image=image, **how)
            written += picture(scene, target, **shown, progress=progress)
        except ValueError as error:  # not to be read, or too large for the memory
            passed_over.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    return written, passed_over


def _opened(source: str | Path, max_size: int | None, strength: float, preserve_color: bool) -> tuple[Tensor, dict]:
    """Reads a picture as the automaton starts from it, on white, and what of it stays: its `alpha`, and a `finish`."""
    image, alpha = load_with_alpha(source, max_size)
    if strength == 1 and not preserve_color:
        return image, {"alpha": alpha, "finish": None}
    photo = image if alpha is None else load_straight(source, max_size)[0]  # which transparency is laid over again
    return image, {"alpha": alpha, "finish": Finish(photo, strength, preserve_color)}
