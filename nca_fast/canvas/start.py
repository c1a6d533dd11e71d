"""What a canvas begins with: the numbers of `NCA.initial_state`, written into a band without holding them all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast.canvas.band import BLOCK, Band
from nca_fast.canvas.paint import Paint, parse_legend, read_map
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.state_file import StateFile
from nca_fast.code_biases import has_single, single_texture
from nca_fast.media.images import load_image
from nca_fast.states import put_cell, put_image, scaled_to_unit
from nca_fast.textures import mixed, model_name, one_hot, parse_shares

PIECE = 2**22  # random numbers at a time: a multiple of 16, as many as torch draws normal numbers in


@dataclass(frozen=True)
class Start:
    """A start state.

    Args:
        kind: "zeros", "noise", "cell", "image" or "state"; the first four are those of `NCA`.
        image: For "image": [3, height, width] in [0, 1].
        state: For "state": a saved one, whatever automaton made it.
    """

    kind: str
    image: Tensor | None = None
    state: StateFile | None = None

    def check(self, scene: Scene) -> None:
        """Refuses what does not go with a scene.

        Raises:
            ValueError: name, rule, value and remedy.
        """
        nca, rule = scene.nca, scene.nca.rule
        if self.kind == "cell" and rule.alive_channel is None:
            raise ValueError("start=cell needs an automaton with an alive channel, but this one has none.")
        if self.kind == "image":
            if rule.channels < nca.rgb_channel + 3 or (rule.frozen not in (0, 3) and not nca.textures):
                raise ValueError(
                    "a picture to start from needs an automaton with RGB channels and 0 or 3 frozen ones, but this one "
                    f"has {rule.channels} channels, RGB from {nca.rgb_channel} on, and {rule.frozen} frozen ones."
                )
            size = [3, scene.height, scene.width]
            if list(self.image.shape) != size:
                raise ValueError(
                    f"image must have shape {size}, but got {list(self.image.shape)}: a pixel for every cell. Give the "
                    "canvas its size, or scale the picture."
                )
        if self.kind == "state":
            state = self.state
            if (state.channels, state.height, state.width) != (rule.channels, scene.height, scene.width):
                raise ValueError(
                    f"the state in {state.path} must be {rule.channels} channels of {scene.height} x {scene.width} "
                    f"cells, but it is {state.channels} of {state.height} x {state.width}."
                )
            if state.step + scene.steps > 2**32:
                raise ValueError(
                    f"the state in {state.path} must have taken at most {2**32 - scene.steps} steps for {scene.steps} "
                    f"to follow, but 'step' says {state.step}."
                )
            if len(scene.stages()) > 1:
                raise ValueError("a canvas that grows cannot start from a saved state: leave grow_every out.")

    def write(
        self,
        band: Band,
        scene: Scene,
        height: int,
        width: int,
        *,
        first_row: int = 0,
        paint: Paint | None = None,
    ) -> None:
        """Writes the rows of a band, which holds zeros.

        Where the band is kept in 16 bits, noise is rounded before it is scaled and again after.

        Args:
            band: Rows first_row to first_row + band.rows - 1 of the canvas.
            scene: For its automaton and seed.
            height, width: Of the canvas, which is in the middle of that of the scene until it has grown.
            first_row: See band.
            paint: Which texture grows where, of an automaton that knows several.
        """
        self._write(band, scene, height, width, first_row)
        if paint is not None:
            put_codes(band, paint, height, width, first_row)

    def _write(self, band, scene, height, width, first_row):
        nca = scene.nca
        if self.kind == "state":
            for row, count in band.blocks():
                band.write(row, self.state.rows(first_row + row, count))
        elif self.kind == "cell":
            if first_row <= height // 2 < first_row + band.rows:
                row = put_cell(torch.zeros(band.channels, 1, width), nca.rule.alive_channel, 0, width // 2)
                band.write(height // 2 - first_row, row)
        elif self.kind == "noise":
            _draw(band, torch.randn, height, first_row, scene.seed)
            for row, count in band.blocks():
                band.write(row, scaled_to_unit(band.read(row, count)))
        elif self.kind == "image":
            _draw(band, torch.rand, height, first_row, scene.seed)
            top, left = (scene.height - height) // 2 + first_row, (scene.width - width) // 2
            for row, count in band.blocks():
                image = self.image[:, top + row : top + row + count, left : left + width]
                rule = replace(nca.rule, frozen=0) if nca.textures else nca.rule
                band.write(row, put_image(band.read(row, count) - 0.5, image, rule, nca.rgb_channel))


def put_codes(band: Band, paint: Paint, height: int, width: int, first_row: int = 0, at: float = 0.0) -> None:
    """Writes the codes of a map into the frozen channels of a band; arguments as `Start.write` and `Paint.rows`."""
    top, left = (paint.height - height) // 2 + first_row, (paint.width - width) // 2
    handy = max(paint.soft, BLOCK // (band.channels * band.width), 1)
    for row, count in band.blocks(handy):
        band.write(row, paint.rows(top + row + torch.arange(count), left, width, at))


def find_start(scene: Scene) -> Start:
    """Finds the start that the settings name, or that the automaton was made for.

    Raises:
        OSError, ValueError: There is no such file, or it is neither a picture nor a state; the picture is missing, or
            the start does not go with the scene.
    """
    nca, image, start = scene.nca, scene.image, scene.config.start
    if start is None or image is not None:
        if (image is not None) != (nca.start == "image") or (image is not None and start is not None):
            got = "none" if image is None else f"one of shape {tuple(image.shape)}"
            raise ValueError(
                f"image must be given exactly when start is 'image', but start={nca.start!r} got {got}. "
                "--start names one."
            )
        found = Start(nca.start, None if image is None else image.cpu())
    elif scene.config.start_file is None:
        found = Start(start)
    elif scene.config.start_file.suffix == ".safetensors":
        found = Start("state", state=StateFile(scene.config.start_file))
    else:
        found = Start("image", load_image(start))
    found.check(scene)
    return found


def painted_colony(scene: Scene) -> Paint:
    """Finds which of several automata lives where, by a map of colours and the names of their folders.

    Raises:
        OSError, ValueError: There is no such map, colour or name, or automata that know several textures, whose names
            they would be, or two of one name.
    """
    config = scene.config
    if scene.nca.textures:
        raise ValueError(
            "paint must mean either textures or automata, but there are automata to graft on one that knows several "
            "textures: use --map, or leave --graft out."
        )
    names = one_hot([scene.name, *map(model_name, config.graft)])
    if len(names) <= len(config.graft):
        raise ValueError(f"folders of automata to paint with must have different names, but got {', '.join(names)}.")
    return _painted(scene, names)


def _painted(scene, codes):
    """Reads the map of colours of a scene, whose colours mean what has these codes."""
    config, names = scene.config, {name: parse_shares(name, codes) for name in codes}
    labels, shares, said = read_map(load_image(config.paint), names, parse_legend(config.legend, codes))
    numbers = torch.stack([mixed(codes, share) for share in shares])[None]
    return Paint(labels, numbers, soft=config.soft or 0, said=said, **_extent(scene))


def _extent(scene):
    return {"height": scene.height, "width": scene.width, "circular": scene.nca.rule.padding == "circular"}


def find_paint(scene: Scene) -> Paint | None:
    """Finds what grows where, by the settings of a scene; None where its automaton knows one texture alone, or goes on
    from a state that holds its codes.

    Raises:
        OSError, ValueError: There is no such texture, map or colour, or the settings do not go together.
    """
    config, nca = scene.config, scene.nca
    if scene.paint is not None:
        return scene.paint
    given = [name for name in ("texture", "texture_to", "paint") if getattr(config, name)]
    if config.graft and config.paint is not None:
        return None  # of automata
    if not nca.textures:
        if given:
            raise ValueError(
                f"{', '.join(given)} must go with an automaton that knows several textures, but this one knows one "
                "alone. nca-fast texture A.png B.png trains one that knows both."
            )
        return None
    if config.paint is not None:
        return _painted(scene, nca.textures)
    if not given and config.start_file is not None and config.start_file.suffix == ".safetensors":
        return None
    first = next(iter(nca.textures)) if config.texture is None else config.texture
    stations = [mixed(nca.textures, parse_shares(text, nca.textures)) for text in (first, *config.texture_to)]
    said = "" if given else f"texture {first}; it knows {', '.join(nca.textures)}, too: --texture, --paint"
    said = said.replace(f"knows {first}, ", "knows ").replace(f", {first}", "")
    return Paint(torch.zeros(1, 1, dtype=torch.int64), torch.stack(stations)[:, None], said=said, **_extent(scene))


def simplified(scene: Scene) -> Scene:
    """Gives a canvas of one texture, or one blend, an automaton that knows nothing else: the same picture, sooner.

    Args:
        scene: With its paint, as `find_paint` finds it. Its states are then those without the channels of the code.
    """
    paint, config = scene.paint, scene.config
    alone = not (config.graft or scene.events) and paint is not None and paint.codes.shape[:2] == (1, 1)
    zeros = (config.start or scene.nca.start) == "zeros"  # noise is scaled by that of all channels of a cell
    if not (alone and zeros and has_single(scene.nca)):
        return scene
    return replace(
        scene, nca=single_texture(scene.nca, paint.codes[0, 0]), paint=None, config=replace(config, texture=None)
    )


def file_size(path: Path) -> tuple[int, int]:
    """Reads height and width of the picture or state in a file. Raises as `find_start`."""
    if path.suffix == ".safetensors":
        state = StateFile(path)
        return state.height, state.width
    return tuple(load_image(path).shape[1:])


def _draw(band: Band, draw: Callable, height: int, first_row: int, seed: int) -> None:
    """Writes the band's share of the random numbers that `draw` makes for the whole canvas.

    They come in one row, channel after channel, and can only be drawn from the first one on.
    """
    generator = torch.Generator().manual_seed(seed)
    plane = height * band.width
    begin, end = first_row * band.width, (first_row + band.rows) * band.width
    total, at = band.channels * plane, 0
    while at < total:
        # The last piece is not shorter than 16, below which torch draws normal numbers in another way.
        count = total - at if total - at < PIECE + 16 else PIECE
        values = draw(count, generator=generator)
        for channel in range(at // plane, (at + count - 1) // plane + 1):
            first, last = max(at, channel * plane + begin), min(at + count, channel * plane + end)
            if first < last:
                band.put(channel, first - channel * plane - begin, values[first - at : last - at])
        at += count
