"""Style transfer: an automaton that redraws any picture in the style of one.

Every cell always sees the colour that the picture had there, in its frozen channels, and paints in three others.

Source: Petersen, "Neural Cellular Automata Image Manipulation", 2022, and Hinno, "Neural Cellular Automata for style
transfer", 2024, which adds the losses other than Gram matrices and the filters other than Sobel's.
"""

import shlex
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import checkpoint, features
from nca_fast.devices import moved, network_dtype
from nca_fast.losses import regularizers, style, weighted
from nca_fast.losses.color import ColorHistogram, color_map
from nca_fast.losses.content import CONTENT_LOSSES, check_layers, guide_distance
from nca_fast.media.images import load_image, source_name
from nca_fast.media.strokes import size_for_strokes
from nca_fast.media.structure import is_flat
from nca_fast.nca import NCA
from nca_fast.presets import PRESETS, style_filters
from nca_fast.scoring.spelling import scoring
from nca_fast.systems.drawing import draw_redrawn, redrawn
from nca_fast.systems.style_settings import (
    FILMED,
    SMALLEST_STYLE,
    STROKE_WIDTH,
    STYLE,
    STYLE_SIZES,
    StyleConfig,
    StyleSources,
)
from nca_fast.systems.target import check_picture
from nca_fast.training.capture import Captured
from nca_fast.training.content import ContentPictures, first_picture, shrunk
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import PICTURES_FILE, SavedRun
from nca_fast.training.settings import FREE_ON_RESUME
from nca_fast.training.system import PoolSystem, given_or_saved


class Style(PoolSystem):
    """Style transfer; see `STYLE` for what its command says."""

    name, Sources, Config = STYLE.name, StyleSources, StyleConfig
    free_on_resume = (*FREE_ON_RESUME, "video_steps")
    files = ("restyled.png", "restyled.mp4")

    def __init__(self, config: StyleConfig, sources: StyleSources, saved: SavedRun | None, out: Path):
        self.config = config
        asked = {
            "shown_steps": config.picture_steps,
            "style": source_name(sources.style),
            "content": [source_name(source) for source in sources.content],
        }
        if saved is None and config.style_size is not None and config.style_scale != 1:
            raise ValueError(
                f"style_scale must be left out where style_size says how large the style is, but got "
                f"{config.style_scale} and {config.style_size}."
            )

        def read(image: str | Path | Tensor) -> Tensor:
            picture = image if isinstance(image, Tensor) else load_image(image)
            check_picture(picture, "style", SMALLEST_STYLE)
            if self.config.style_size is None:
                found = size_for_strokes(picture, STROKE_WIDTH, *STYLE_SIZES)
                self.config = replace(self.config, style_size=max(SMALLEST_STYLE, round(config.style_scale * found)))
            return as_style(picture, self.config.style_size)

        target = given_or_saved("style", sources.style, read, saved, out)
        if saved is None:
            self.pictures = ContentPictures.read(sources.content, config.content_size, config.content_zoom)
            self.first, self.facts = first_picture(sources.content, config.picture_size), asked
        else:
            self.facts = {key: saved.metadata[key] for key in asked}
            if sources.content and asked["content"] != self.facts["content"]:
                raise ValueError(f"content must be that of the run in {out}, {self.facts['content']}. Leave it out.")
            tensors, _ = checkpoint.load(out / PICTURES_FILE)
            self.pictures = ContentPictures.restored(tensors, config.content_size)
            self.first = tensors.tensor("first", (3, None, None), torch.uint8)
        self.kept, self.picture = {"target": target}, target  # the latter stays on the CPU

    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        return self.config.content_size, self.config.content_size

    def beginning(self) -> list[str]:
        """How large strokes will be, and what compares."""
        height, width = self.kept["target"].shape[1:]
        flat = "; it has a single colour, and there is nothing to learn but that" if is_flat(self.picture) else ""
        return [
            f"the style is learned at {height} x {width} pixels, and its strokes are drawn as large as they are there "
            f"(--style-scale 2 for twice as large){flat}",
            features.said(self.config.features),
        ]

    def model(self) -> NCA:
        """Makes the automaton, with other filters where they are asked for."""
        options = PRESETS[self.config.preset] | {"init_gain": self.config.init_gain}
        if self.config.filters is not None:
            options = options | {"rule": replace(options["rule"], filters=style_filters(*self.config.filters))}
        return NCA(**options)

    def prepares(self) -> str:
        """As `System.prepares`: the features, which take longest."""
        return features.awaited(self.config.features)

    def begin(self, model: NCA, saved: SavedRun | None) -> None:
        """Moves the content pictures to the device first."""
        self.originals, self.pictures = self.pictures, self.pictures.to(model.device)
        super().begin(model, saved)
        self.shown = self.pictures.squares(1, self.generator("preview"))[0]

    def start(self, count: int, seed: int) -> Tensor:
        """Makes states of random squares of content pictures."""
        return self.pictures.start(self.nca, count, seed, self.noise(seed))

    def large_start(self, side: int, seed: int) -> Tensor:
        """Makes a state of a random square of a content picture, enlarged where need be."""
        return self.pictures.start(self.nca, 1, seed, self.noise(seed), side)

    def constants(self) -> dict[str, Tensor]:
        """The content pictures."""
        return self.pictures.tensors() | {"first": self.first}

    def objective(self) -> Objective:
        """The losses of style, content and colour."""
        return style_objective(self.config, self.picture, self.nca, self.originals)

    def references(self) -> list[Tensor]:
        """The style, and the square that previews redraw."""
        return [shrunk(self.kept["target"], 2 * self.config.content_size), self.shown]

    def preview(self) -> Tensor:
        """A square of a content picture, restyled."""
        return redrawn(self, self.shown, *self.shown.shape[1:], self.config.picture_steps)

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes the first content picture, restyled, and a film of it."""
        draw_redrawn(self, self.first / 255, self.config.picture_steps, 1, out, progress, iterations, FILMED * films)

    def then(self, out: Path) -> list[str]:
        """How to restyle other pictures, and how good it is."""
        applied = f"nca-fast apply {shlex.quote(str(out))} PICTURE --out restyled.png"
        return [applied, scoring(str(out), {None: self.facts["style"]})]


def style_objective(config: StyleConfig, picture: Tensor, nca: NCA, contents: ContentPictures) -> Objective:
    """Makes the losses of a batch of states.

    Args:
        config: The settings, resolved.
        picture: The style picture, [3, h, w] in [0, 1], on the CPU, where features are learned from it.
        nca: The automaton; its frozen channels hold the content pictures.
        contents: The content pictures, on the CPU, whose colours the guide brings to those of the style.

    Returns:
        (states [B, C, H, W], generator) -> the weighted losses by name; those of weight 0 are not computed.

    Raises:
        ValueError: The content layers are not among the feature maps.
    """
    target, dtype = moved(picture, nca.device), network_dtype(nca.device, config.precision)
    extractor = features.load(config.features, config.weights, dtype=dtype, picture=picture).to(nca.device)
    style_distance = style.load(config.loss, extractor, target, config.projections)
    check_layers(config.content_layers, len(style_distance.channels), config.features)
    content_distance = CONTENT_LOSSES[config.content_loss]
    if config.color_loss == "transport":
        color_distance = style.SlicedOT([target[None]], config.projections)
    else:
        color_distance = ColorHistogram(target[None], config.color_bins, config.color_sigma)
    colors = torch.cat([content.flatten(1) for content in contents.pictures], 1) / 255
    matrix, shift = (moved(tensor, nca.device) for tensor in color_map(colors, picture.flatten(1)))

    def measure(states: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        of_color, of_style = drawn[: len(drawn) - in_style], drawn[len(drawn) - in_style :]
        rgb, picture = nca.to_rgb(states, clamp=False), states[:, : nca.rule.frozen] + 0.5
        maps = extractor(rgb) if config.style_weight or config.content_weight else None

        def content() -> Tensor:
            with torch.no_grad():
                wanted = extractor(picture)
            return content_distance(maps, wanted, config.content_layers)

        def guide() -> Tensor:
            wanted = torch.einsum("ij,bjhw->bihw", matrix, picture) + shift[:, None, None]
            return guide_distance(rgb, wanted.clamp(0, 1), config.guide_size)

        def color() -> Tensor:
            return color_distance([rgb] if config.color_loss == "transport" else rgb, drawn=of_color)

        return weighted(
            style=(config.style_weight, lambda: style_distance(maps, drawn=of_style)),
            guide=(config.guide_weight, guide),
            content=(config.content_weight, content),
            color=(config.color_weight, color),
            overflow=(config.overflow_weight, lambda: regularizers.overflow(states)),
            variation=(config.variation_weight, lambda: regularizers.total_variation(rgb)),
        )

    captured = Captured(measure)
    in_style = len(style_distance.draw(torch.Generator())) if config.style_weight else 0

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        of_style = style_distance.draw(generator) if config.style_weight else []
        of_color = []
        if config.color_weight:
            size = [] if config.color_loss == "transport" else states.shape[2:]
            of_color = color_distance.draw(generator, *size)
        return captured(states, drawn=[*of_color, *of_style])

    return objective


def as_style(picture: Tensor, size: int) -> Tensor:
    """Shrinks the style picture [3, h, w] in [0, 1] until its longer side has at most `size` pixels."""
    target = shrunk(picture, size)
    if min(target.shape[1:]) < SMALLEST_STYLE:
        raise ValueError(
            f"style must be at least {SMALLEST_STYLE} pixels high and wide when its longer side has {size}, but it is "
            f"{list(target.shape)}. Choose another picture, style size or style scale."
        )
    return target.float().contiguous()
