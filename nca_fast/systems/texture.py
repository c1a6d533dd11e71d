"""Texture synthesis: an automaton that grows, out of nothing and for ever, the texture of one picture.

The loss compares statistics of the pictures, never their cells, so the automaton is free to lay its own bricks.

Source: Niklasson, Mordvintsev, Randazzo and Levin, "Self-Organising Textures", Distill 2021, and its PyTorch notebook.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import features
from nca_fast.canvas.paint import beside_each_other
from nca_fast.code_biases import all_rolled_out, rolled_out, units_at_work
from nca_fast.devices import moved, network_dtype
from nca_fast.hexagons import levelled, on_grid, training_size
from nca_fast.losses import regularizers, style, weighted
from nca_fast.media.images import load_image, source_name
from nca_fast.media.structure import is_flat, is_grey
from nca_fast.nca import NCA
from nca_fast.presets import PRESETS
from nca_fast.scoring.score import SMALLEST
from nca_fast.scoring.spelling import scoring
from nca_fast.systems.drawing import draw_grown, grown
from nca_fast.systems.surface import View, for_maps, judged_together, open_maps, views
from nca_fast.systems.surface import tensor_name as map_tensor_name
from nca_fast.systems.swatches import Swatch, for_textures, judged_each, open_swatches, tensor_name, turns
from nca_fast.systems.target import as_target, check_picture, chosen_crop
from nca_fast.systems.texture_settings import FILMED, SMALLEST_IMAGE, TEXTURE, TextureConfig, TextureSources
from nca_fast.training.capture import Captured
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import FREE_ON_RESUME
from nca_fast.training.system import PoolSystem, given_or_saved

GREY_WEIGHT = 1000.0  # of the colours of what is to become grey, where one automaton learns pictures in colour as well


class Texture(PoolSystem):
    """Texture synthesis, of one picture or of several at once; see `TEXTURE` for what its command says."""

    name, Sources, Config = TEXTURE.name, TextureSources, TextureConfig
    free_on_resume = (*FREE_ON_RESUME, "picture_steps", "video_steps")
    files = ("texture.png", "texture.mp4")

    def __init__(self, config: TextureConfig, sources: TextureSources, saved: SavedRun | None, out: Path):
        self.config, self.swatches, self.maps = config, [], []
        images = () if sources.image is None else (sources.image, *sources.more)
        if "textures" in saved.metadata if saved else len(images) > 1:
            if sources.maps:
                raise ValueError(f"maps must go with one picture, but got them with {len(images) or 'several'}.")
            self.swatches = open_swatches(images, sources.names, self._read, saved, out)
            self.targets = [swatch.target for swatch in self.swatches]
            self.facts = {"textures": [swatch.facts() for swatch in self.swatches]}
        else:
            if len(images) > 1:
                raise ValueError(f"image must be that of the run in {out}, which knows one alone. Leave it out.")
            if sources.names:
                raise ValueError(f"names must go with several pictures, but got {', '.join(sources.names)} for one.")
            self.targets = [given_or_saved("image", sources.image, self._read_only, saved, out)]
            self.facts = {"image": saved.metadata["image"] if saved else source_name(sources.image)}
            whole = None if saved or not sources.maps else load_image(sources.image)
            size = None if whole is None else tuple(whole.shape[1:])
            shrink = partial(as_target, crop=self.config.image_crop, size=self.config.image_size)
            self.maps = open_maps(sources.maps, size, shrink, saved, out)
            self.facts |= {"maps": [one.facts() for one in self.maps]} if self.maps else {}
            self.files = (*type(self).files, *(f"texture_{one.name}.png" for one in self.maps))
        self.kept = {tensor_name(number): target for number, target in enumerate(self.targets)}
        self.kept |= {map_tensor_name(one.name): one.target for one in self.maps}
        # Three channels that begin alike and are always changed alike stay alike, to the bit, on every canvas.
        starts_grey = PRESETS.get(config.preset, {}).get("start", "zeros") == "zeros"
        self.grey = starts_grey and all(map(is_grey, self.targets))
        if self.grey:
            self.augment = self._greyed
        if self.swatches:
            self.restart, self.kinds, self.large_starts = self._restarted, len(self.swatches), len(self.swatches) + 1

    def _read(self, image: str | Path | Tensor) -> tuple[Tensor, int]:
        """Opens a picture: what is learned of it, and how many of its pixels that is."""
        whole = image if isinstance(image, Tensor) else load_image(image)
        check_picture(whole, "image", SMALLEST_IMAGE)
        size, crop = self.config.image_size, self.config.image_crop
        crop = chosen_crop(whole, size) if crop is None else crop
        return as_target(whole, crop, size), crop

    def _read_only(self, image: str | Path | Tensor) -> Tensor:
        """Opens the only picture, and keeps how many of its pixels are learned."""
        target, crop = self._read(image)
        self.config = replace(self.config, image_crop=crop)
        return target

    def beginning(self) -> list[str]:
        """What a cell sees, and what compares."""
        config, lines = self.config, []
        known = self.swatches or [Swatch("", None, config.image_crop, self.targets[0])]
        for swatch in known:
            lines.append(f"{swatch.name}: {self._cell(swatch)}" if self.swatches else self._cell(swatch))
        return [*lines, features.said(config.features)]

    def _cell(self, swatch: Swatch) -> str:
        """What a cell sees of a picture."""
        config = self.config
        shrink = max(1.0, swatch.crop / config.image_size)
        height, width = swatch.target.shape[1:]
        cell = "one cell is one pixel" if shrink == 1 else f"one cell is {shrink:.3g} x {shrink:.3g} pixels"
        grey = "; it is grey, and so is all that it will draw" if self.grey else ""
        grey += "; it has a single colour, and there is nothing to learn but that" if is_flat(swatch.target) else ""
        return (
            f"{cell} of the picture, of which {height * shrink:.0f} x {width * shrink:.0f} pixels are learned, as "
            f"{height} x {width} cells (--image-crop, --image-size){grey}"
        )

    def model(self) -> NCA:
        """Makes the automaton. Raises ValueError for a preset that needs a picture."""
        nca = super().model()
        if nca.start == "image":
            raise ValueError(
                f"preset must be an automaton that needs no picture to start from, but got {self.config.preset!r}."
            )
        if self.swatches:
            nca = for_textures(nca, [swatch.name for swatch in self.swatches])
        if self.maps:
            nca = for_maps(nca, self.maps)
        return on_grid(nca, self.config.grid)

    def prepares(self) -> str:
        """As `System.prepares`: the features, which take longest."""
        return features.awaited(self.config.features)

    def begin(self, model: NCA, saved: SavedRun | None) -> None:
        """As `System.begin`; of a grey picture the new model draws red, green and blue alike."""
        if self.grey and saved is None:
            self._as_grey([parameter.detach() for parameter in model.layers[-1].parameters()], model)
        if self.swatches:
            self.roll = partial(rolled_out, model, units=units_at_work(model))
            self.large_roll = partial(all_rolled_out, model, units=units_at_work(model))
        super().begin(model, saved)

    @staticmethod
    def _as_grey(tensors: list[Tensor], nca: NCA) -> None:
        """Makes what changes red, green and blue alike, in tensors that are as the weights and biases of the last layer
        are."""
        first = nca.rgb_channel - nca.rule.frozen
        for tensor in tensors:
            rows = tensor[first : first + 3]
            rows.copy_(rows.mean(0, keepdim=True).expand_as(rows))

    def _greyed(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """Takes the colours away that disturbances brought: what all three channels share alone can be mended."""
        rgb = states[:, self.nca.rgb_channel : self.nca.rgb_channel + 3]
        rgb.copy_(rgb.mean(1, keepdim=True).expand_as(rgb))
        return states

    def adjust_gradients(self, parameters: list[Tensor]) -> None:
        """As `System.adjust_gradients`; red, green and blue of a grey picture learn the same."""
        if self.grey:
            self._as_grey([parameter.grad for parameter in self.nca.layers[-1].parameters()], self.nca)
        super().adjust_gradients(parameters)

    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        if self.config.grid == "hex":
            return training_size(self.config.canvas_size)
        return self.config.canvas_size, self.config.canvas_size

    def summed(self) -> int:
        """As `System.summed`; an iteration takes states of each texture."""
        return len(self.targets) * super().summed()

    def start(self, count: int, seed: int) -> Tensor:
        """As `PoolSystem.start`; several textures take turns."""
        states = super().start(count, seed)
        if self.swatches:
            states[:, : self.nca.rule.frozen] = turns(self.nca, count)
        return states

    def _restarted(self, states: Tensor, seed: int) -> Tensor:
        """Makes start states in place of others, of their textures."""
        fresh, frozen = self.start(len(states), seed), self.nca.rule.frozen
        fresh[:, :frozen] = states[:, :frozen]
        return fresh

    def large_start(self, side: int, seed: int) -> Tensor:
        """As `PoolSystem.large_start`; of several textures each, and all on one canvas, beside each other."""
        if not self.swatches:
            return super().large_start(side, seed)
        states = super().large_start(side, seed).repeat(self.large_starts, 1, 1, 1)
        states[:-1, : self.nca.rule.frozen] = turns(self.nca, len(self.swatches))
        states[-1, : self.nca.rule.frozen] = moved(
            beside_each_other(self.nca.textures, side, side).rows(torch.arange(side)), self.nca.device
        )
        return states

    def objective(self) -> Objective:
        """The style loss, and the overflow loss."""
        if self.maps:
            single, pairs = ([self._judge(view.target, view.of) for view in of] for of in self._views())
            return judged_together(single, pairs)
        judges = [self._judge(target) for target in self.targets]
        if self.swatches:
            return judged_each(judges, self.nca)
        ((captured, draw),) = judges
        return lambda states, generator: captured(states, drawn=draw(generator))

    def _views(self) -> tuple[list[View], list[View]]:
        """The pictures by which a surface is judged, of what is kept on the device."""
        maps = [replace(one, target=self.kept[map_tensor_name(one.name)]) for one in self.maps]
        return views(self.nca, self.kept[tensor_name(0)], maps)

    def _judge(
        self, target: Tensor, show: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Captured, Callable[[torch.Generator], list[Tensor]]]:
        """Makes the losses of states that are to become one texture, and what draws for them.

        Args:
            target: What they are to show.
            show: What they show; None: their colours.
        """
        config, nca = self.config, self.nca
        show = partial(nca.to_rgb, clamp=False) if show is None else show
        seen = levelled if config.grid == "hex" else torch.nn.Identity()
        dtype = network_dtype(nca.device, config.precision)
        extractor = features.load(config.features, config.weights, dtype=dtype, picture=target, even_hues=True)
        extractor = extractor.to(nca.device)
        grey = bool(self.swatches) and not self.grey and is_grey(target)
        distance = style.load(config.loss, extractor, moved(target, nca.device), config.projections)

        def measure(states: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
            rgb = seen(show(states))
            return weighted(
                style=(1.0, lambda: distance(extractor(rgb), drawn=drawn)),
                overflow=(config.overflow_weight, lambda: regularizers.overflow(states)),
                chroma=(GREY_WEIGHT * grey, lambda: regularizers.chroma(rgb)),
            )

        return Captured(measure), distance.draw

    def references(self) -> list[Tensor]:
        """The textures; of a surface its colours and maps beside each other."""
        if self.maps:
            return [torch.cat([view.target for view in self._views()[0]], 2)]
        return [self.kept[tensor_name(number)] for number in range(len(self.targets))]

    def preview(self) -> Tensor:
        """What grows from the start state, and not from what the pool holds."""
        return grown(self)

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes a picture and a film of what grows."""
        side = None if self.config.grid == "hex" else self.config.image_size
        draw_grown(self, out, progress, iterations, FILMED * films, side)

    def then(self, out: Path) -> list[str]:
        """How to draw more, and how good it is; what is too small to be measured has another look proposed."""
        which = f" --texture {self.swatches[-1].name}" if self.swatches else ""
        drawn = f"nca-fast render {shlex.quote(str(out))}{which} --height 1024 --width 1024 --out big.png"
        originals = {swatch.name: swatch.image for swatch in self.swatches} or {None: self.facts["image"]}
        if min(side for target in self.targets for side in target.shape[1:]) < SMALLEST:
            return [drawn, f"nca-fast info {shlex.quote(str(out))}"]
        return [drawn, scoring(str(out), originals)]
