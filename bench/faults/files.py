"""Opens thousands of damaged files: each must be read, or refused in one sentence that names the file.

    python -m bench.faults.files --cases 10000 --out bench/results/faults_files.json

Models, states, replays, journals, trainings with their settings and logs, pictures, data sets and weights are made,
damaged (see `mutate`) and opened in this process, with at most 1 GiB more of address space than before and ten seconds
of a core for each.
"""

import argparse
import gzip
import json
import random
import resource
import signal
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageCms, features
from safetensors.torch import save_file

from bench.faults.mutate import mutated
from bench.harness import header
from nca_fast import NCA, Rule
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.events import Events, weights_sum
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.replay import read_replay
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.commands import faults
from nca_fast.commands.replayed import replayed_models
from nca_fast.features import vgg
from nca_fast.losses.aesthetic import AestheticHead
from nca_fast.media.datasets import load_pictures
from nca_fast.media.images import load_rgba, load_with_alpha
from nca_fast.presets import PRESETS
from nca_fast.systems.style import Style, StyleConfig, StyleSources
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.systems.vae.architecture import Architecture
from nca_fast.systems.vae.model import VAENCA
from nca_fast.training import session
from nca_fast.training.session import run_training

REFUSALS = (ValueError, OSError)  # what the command line turns into a sentence, less what would hide a mistake of ours
LONGEST = 1500  # letters of a sentence
ROOM = 2**30  # bytes of address space
SECONDS = 10
SCENE = {"seed": 3, "backend": "reference"}
REPLAY = {"nca_fast": 1, "models": ["model"], "height": 12, "width": 8, "seed": "3", "padding": "circular", "steps": 4}
REPLAY |= {"layout": 0, "strokes": [["erase", 1, 3, 4, 3, 6, 2, 0.5, 0], ["turn", 2, 30, "polar", 1.5]]}
SHORT = {"iterations": 2, "pool_size": 2, "steps_min": 1, "steps_max": 2, "backend": "reference", "threads": 1}


@dataclass(frozen=True)
class Specimen:
    """A file that can be damaged.

    Args:
        path: The file.
        kind: As in `mutate.mutated`.
        open: Reads it as the product does, with all that hangs on it.
    """

    path: Path
    kind: str
    open: Callable[[], object]


class TooLong(BaseException):
    """The time for a case is over."""


def specimens(folder: Path) -> dict[str, Specimen]:
    """Makes one whole file of each kind, in folders of their own."""
    torch.manual_seed(0)
    nca = NCA(Rule(channels=4, hidden=(6,), fire_rate=0.5), init_gain=0.3)
    model = nca.save_pretrained(folder / "model")
    encoder = ((8, 4, 4, 0, False), (8, 2, 1, 0, False))
    vae = VAENCA(Architecture(PRESETS["vae-mnist"]["rule"], 8, 4, 3, encoder, (8,), True)).save_pretrained(
        folder / "vae"
    )
    state, wall = folder / "state.safetensors", folder / "wall" / "wall.png"
    wall.parent.mkdir()
    with Canvas(Scene(nca, 12, 8, 2, **SCENE)) as canvas:
        canvas.go()
        canvas.save_state(state)

    def from_state():
        with Canvas(Scene(nca, 12, 8, 2, config=CanvasConfig(start=str(state)), **SCENE)) as canvas:
            canvas.go()

    def resumed():
        with Canvas(Scene(nca, 12, 8, 4, **SCENE), path=wall, resume=True) as canvas:
            canvas.go()

    with suppress(KeyboardInterrupt):
        options = {"path": wall, "resume": False, "plan": Plan(5, 2, 2, False, False)}
        with Canvas(Scene(nca, 12, 8, 4, **SCENE), **options) as canvas:
            canvas.go(2)
            raise KeyboardInterrupt
    replay = folder / "replay" / "replay.json"
    replay.parent.mkdir()
    replay.write_text(json.dumps(REPLAY | {"weights": [weights_sum(nca)]}))

    def done_again():
        kept = read_replay(replay)
        replayed_models(kept, [model])
        events = Events(kept, [nca], 12, 8)
        with Canvas(Scene(events.ncas[0], 12, 8, 4, events=events, **SCENE)) as canvas:
            canvas.go()

    picture = torch.rand(3, 16, 16)
    texture = TextureConfig(image_size=16, picture_steps=1, video_steps=0, features="patches", loss="ot", **SHORT)
    style = StyleConfig(content_size=16, style_size=16, picture_size=16, picture_steps=1, video_steps=0, **SHORT)
    for system, sources, config in (
        (Texture, TextureSources(picture), texture),
        (Style, StyleSources(picture, (picture,)), style),
    ):
        run_training(system, sources, folder / system.name, config, progress=False)

    def goes_on(system, sources):
        def run():
            with _one_iteration():
                run_training(system, sources, folder / system.name, resume=True, progress=False)

        return run

    texture_goes_on, style_goes_on = goes_on(Texture, TextureSources()), goes_on(Style, StyleSources())
    log = folder / "texture" / "log.jsonl"
    return {
        "model": Specimen(model, "safetensors", lambda: NCA.from_pretrained(model)),
        "vae": Specimen(vae, "safetensors", lambda: VAENCA.from_pretrained(vae)),
        "state": Specimen(state, "safetensors", from_state),
        "journal": Specimen(wall.with_name("wall.png.journal"), "json", resumed),
        "band": Specimen(wall.with_name("wall.png.state"), "bytes", resumed),
        "replay": Specimen(replay, "json", done_again),
        "training": Specimen(folder / "texture" / "training.safetensors", "safetensors", texture_goes_on),
        "pictures": Specimen(folder / "style" / "pictures.safetensors", "safetensors", style_goes_on),
        "log": Specimen(log, "lines", texture_goes_on),
        **_pictures(folder),
        **_data_sets(folder),
        **_weights(folder),
    }


def _pictures(folder: Path) -> dict[str, Specimen]:
    """A picture of each kind that people have, with what hangs on it: a colour profile, EXIF, transparency."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    facts = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "exif": exif.tobytes()}
    deep = Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    kinds = {
        "png": (image, facts),
        "jpg": (image.convert("RGB"), facts),
        "tif": (image, facts | {"compression": "tiff_lzw"}),
        "webp": (image, facts | {"lossless": True}),
        "gif": (image.convert("RGB").convert("P"), {"save_all": True, "append_images": [Image.new("P", (24, 20))]}),
        "bmp": (image.convert("RGB"), {}),
        "deep.png": (deep, {}),
        "deep.tif": (deep, {}),
    }
    if features.check("jpg_2000"):
        kinds["jp2"] = image, {}
    if features.check("avif"):
        kinds["avif"] = image, facts
    made = {}
    for ending, (kept, options) in kinds.items():
        path = folder / ending / f"a.{ending}"
        path.parent.mkdir()
        kept.save(path, **options)

        def read(path=path):
            load_with_alpha(path), load_rgba(path, 16)

        made[ending] = Specimen(path, "png" if ending.endswith("png") else "start", read)
    return made


def _data_sets(folder: Path) -> dict[str, Specimen]:
    """MNIST's files, gzipped and not, and CIFAR-10's: one of two is damaged."""
    draw = np.random.default_rng(0)
    idx = struct.pack(">4BIII", 0, 0, 8, 3, 6, 8, 8) + draw.integers(0, 256, 6 * 64, np.uint8).tobytes()
    names, made = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"), {}
    for kind, ending, content in (("idx", "", idx), ("idx.gz", ".gz", gzip.compress(idx, mtime=0))):
        home = folder / kind
        home.mkdir()
        for name in names:
            (home / f"{name}{ending}").write_bytes(content)

        def read(home=home):
            load_pictures(str(home), 8, True)

        made[kind] = Specimen(home / f"{names[0]}{ending}", "gzip" if ending else "start", read)
    home = folder / "cifar"
    home.mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (home / name).write_bytes(draw.integers(0, 256, 2 * 3073, np.uint8).tobytes())
    made["cifar"] = Specimen(home / "test_batch.bin", "bytes", lambda: load_pictures(str(home), 32, False))
    return made


def _weights(folder: Path) -> dict[str, Specimen]:
    """Weights of others: a head for CLIP, as PyTorch saves it and as safetensors, and what is read of VGG's."""
    state, made = {"linear.weight": torch.randn(1, 512), "linear.bias": torch.randn(1)}, {}
    for ending in ("pth", "safetensors"):
        path = folder / f"head.{ending}" / f"head.{ending}"
        path.parent.mkdir()
        torch.save(state, path) if ending == "pth" else save_file(state, path, {"format": "pt"})

        def read(path=path):
            AestheticHead(path, 512)
            vgg._read(path)

        made[f"head.{ending}"] = Specimen(path, "zip" if ending == "pth" else "safetensors", read)
    return made


@contextmanager
def _one_iteration():
    """A run that is resumed does one iteration and draws nothing, however long it was asked to be."""

    def train(run, step, plan, **options):
        return session_train(run, step, replace(plan, iterations=run.iteration + 1, limit=None), **options)

    session_train = session.train
    with (
        mock.patch.object(session, "train", train),
        mock.patch.object(Texture, "draw", lambda *_: None),
        mock.patch.object(Style, "draw", lambda *_: None),
    ):
        yield


def outcome(specimen: Specimen, content: bytes, whole: dict[Path, bytes]) -> tuple[str, str]:
    """Opens a damaged file.

    Args:
        specimen: What is damaged.
        content: Its bytes now.
        whole: All files of its folder, as they were; they are put back first.

    Returns:
        What happened: "read", "refused", "long" (steps, widths or iterations were asked for that take their time),
        "memory" (or that much of it), or a failure: "traceback", "unclear", "touched". And what was said.
    """
    _put_back(specimen.path.parent, whole)
    specimen.path.write_bytes(content)
    try:
        specimen.open()
        return "read", ""
    except TooLong:
        return "long", ""
    except REFUSALS as error:
        said = str(error)
    except (RuntimeError, MemoryError) as error:
        return "memory" if faults.out_of_memory(error) else "traceback", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    name = specimen.path.name if specimen.kind != "bytes" else specimen.path.stem
    if len(said) > LONGEST or (name not in said and str(specimen.path.parent) not in said):
        return "unclear", said
    whole = whole | {specimen.path: content}
    left = {path: path.read_bytes() for path in specimen.path.parent.iterdir() if path.is_file()}
    return ("refused", said) if left == whole else ("touched", said)


def folder_of(specimen: Specimen) -> dict[Path, bytes]:
    """Reads all files beside a specimen, and itself."""
    return {path: path.read_bytes() for path in specimen.path.parent.iterdir() if path.is_file()}


def _put_back(folder, whole):
    for path in folder.iterdir():
        if path.is_file() and path not in whole:
            path.unlink()
    for path, content in whole.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


@contextmanager
def limits(seconds: float):
    """Ends a block with `TooLong` after so many seconds of a core, and keeps it from taking more than `ROOM` of address
    space. (Not by the clock: what freezes or starves this process is no fault of the file.)"""

    def ring(number, frame):
        raise TooLong

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    handler = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def main() -> None:
    """Damages and opens; writes how often what happened, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, which is its seed")
    parser.add_argument("--only", help="a kind of file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    facts = {"header": header()}
    counts, failures, begin, slowest = {}, [], time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        made = {name: s for name, s in specimens(Path(folder)).items() if options.only in (None, name)}
        whole = {name: folder_of(specimen) for name, specimen in made.items()}
        for name, specimen in made.items():
            happened, said = outcome(specimen, whole[name][specimen.path], whole[name])
            if happened != "read":
                raise RuntimeError(f"{name} must be readable while it is whole, but: {said}")
        for number in range(options.first, options.first + options.cases):
            name = sorted(made)[number % len(made)]
            specimen, draw = made[name], random.Random(number)
            content = mutated(whole[name][specimen.path], specimen.kind, draw)
            started = time.perf_counter()
            with limits(SECONDS):
                happened, said = outcome(specimen, content, whole[name])
            slowest = max(slowest, time.perf_counter() - started)
            counts.setdefault(name, Counter())[happened] += 1
            if happened not in ("read", "refused", "long", "memory"):
                failures.append({"case": number, "file": name, "what": happened, "said": said[:300]})
                print(failures[-1], flush=True)
            done = number + 1 - options.first
            if done % 250 == 0 or done == options.cases:  # what an interrupted run leaves
                result = facts | {"first": options.first, "cases": done, "counts": counts, "failures": failures}
                result |= {"seconds": round(time.perf_counter() - begin), "slowest": round(slowest, 2)}
                if options.out is not None:
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
