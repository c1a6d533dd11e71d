"""The neural cellular automaton as a module: the drop-in layer."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nca_fast import ops
from nca_fast.devices import moved
from nca_fast.files import MODEL_FILE
from nca_fast.integers import checked_integer
from nca_fast.map_names import NORMAL
from nca_fast.presets import PRESETS
from nca_fast.rule import Rule
from nca_fast.states import put_cell, put_image, read_living, scaled_to_unit
from nca_fast.surfaces import channels_of, checked_maps, facing
from nca_fast.textures import Codes, checked_codes, mixed

STARTS = ("zeros", "noise", "image", "cell")


class NCA(nn.Module):
    """A neural cellular automaton: one tiny network that every cell of a canvas runs, over and over.

    Each step, every cell looks at its neighbourhood through the rule's filters and, where the fire mask m lets it,
    adds a small update to its own state,

        x <- x + m * W2 relu(W1 perceive(x) + b1)

    The whole rollout is one fused operation. The last layer starts at zero, so that an untrained automaton leaves its
    state unchanged, unless `init_gain` is given. Kernels of learned filters, `kernels` [L, C, 3, 3], start as those of
    PyTorch's depthwise convolutions do, uniform in [-1/3, 1/3].

    Args:
        rule: What a step is. The default is that of the Distill texture automata.
        rgb_channel: First of the three channels that show as red, green and blue, as value + 0.5.
        start: What `initial_state` makes: "zeros", "noise" (per cell scaled to [0, 1] over the channels), "image"
            (the picture in the frozen and the RGB channels, uniform noise in the others, all centred on zero) or "cell"
            (one living cell in the middle, its channels from the alive channel on 1). An automaton that starts from a
            cell shows its RGB, multiplied by the alive channel alpha, over white: 1 - alpha + RGB, alpha cut to [0, 1];
            when alpha is no later channel than RGB, it shows alpha as grey.
        init_gain: None for PyTorch's default weights and a zero last layer; a number scales all default weights and
            biases instead, the last layer's too.
        textures: Of an automaton that knows several: for each its code, one number for each frozen channel, in which
            states hold the code of what grows there (see `nca_fast.textures`).
        maps: Of an automaton that draws maps of a surface beside colours: for each its number of channels, which follow
            those of the colours (see `nca_fast.surfaces`).

    Raises:
        ValueError: name, rule and value of what does not hold.

    Example:
        >>> nca = NCA.preset("texture")
        >>> x = nca(nca.initial_state(1, 128, 128), steps=64, seed=0)    # [1, 12, 128, 128]
        >>> image = nca.to_rgb(x)                                        # [1, 3, 128, 128]

    Source: Niklasson et al., "Self-Organising Textures" (Distill 2021).
    """

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        rgb_channel: int = 0,
        start: str = "zeros",
        init_gain: float | None = None,
        textures: Codes | None = None,
        maps: Mapping[str, int] | None = None,
    ):
        super().__init__()
        rule = Rule() if rule is None else rule
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be an nca_fast.Rule, but got {type(rule).__name__}: see NCA.preset for names.")
        rgb_channel = checked_integer("rgb_channel", rgb_channel, 0, max(rule.channels - 3, 0))
        if start not in STARTS:
            raise ValueError(f"start must be one of {STARTS}, but got {start!r}.")
        if start == "image" and (rule.channels < rgb_channel + 3 or rule.frozen not in (0, 3)):
            raise ValueError(f'start="image" needs RGB channels and 0 or 3 frozen ones, but got {rule.frozen} frozen.')
        if start == "cell" and rule.alive_channel is None:
            raise ValueError('start="cell" needs a rule with an alive_channel, but got None.')
        self.rule, self.rgb_channel, self.start = rule, rgb_channel, start
        self.textures = checked_codes({} if textures is None else textures, rule.frozen)
        if self.textures and start == "image":
            raise ValueError(
                'textures must go with another start than "image", whose picture takes the frozen channels.'
            )
        self.maps = checked_maps({} if maps is None else maps, rule.channels, rgb_channel)
        if rule.learned_filters:
            shape = (rule.learned_filters, rule.channels, 3, 3)
            self.kernels = nn.Parameter(nn.init.uniform_(torch.empty(shape), -1 / 3, 1 / 3))
        self.layers = nn.ModuleList(nn.Linear(inputs, out, bias) for out, inputs, bias in rule.layers)
        with torch.no_grad():
            if init_gain is None:
                for p in self.layers[-1].parameters():
                    p.zero_()
            else:
                for p in self.parameters():
                    p.mul_(init_gain)

    @classmethod
    def preset(cls, name: str) -> "NCA":
        """The automaton of that name in `presets.PRESETS`, "texture" for example, with fresh weights.

        Raises:
            ValueError: unknown name.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, but got {name!r}.")
        return cls(**PRESETS[name])

    @property
    def weights(self) -> list[tuple[Tensor, Tensor | None]]:
        """Pairs (W [out, in], b [out] or None) of all layers, after kernels of learned filters: what `rollout` takes.

        Computed afresh where they are computed: by parametrizations, or by the older weight_norm, spectral_norm and
        prune of torch.nn.utils.

        Raises:
            TypeError: a layer was replaced by one whose own forward would have to run.
        """
        layers = [_weight_and_bias(f"layers[{i}]", layer) for i, layer in enumerate(self.layers)]
        return [(self.kernels, None), *layers] if self.rule.learned_filters else layers

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        """A tensor of the type and on the device of its states. Not a weight, which some parametrizations change by
        computing it."""
        like = next((p for p in self.parameters() if p.is_floating_point()), None)
        return self.weights[0][0] if like is None else like

    def forward(self, x: Tensor, steps: int, **options) -> Tensor:
        """Runs `steps` updates; options, result and errors are those of `nca_fast.rollout`. [B, C, H, W] -> same.

        Without a seed every call has fire masks of its own, which `torch.manual_seed` makes reproducible.

        Args:
            options: seed, first_step, origin, first_sample, canvas_height, fire_rate, noise, at, after, after_inputs,
                backend, precision, checkpoint_every, bptt_steps.
        """
        return ops.rollout(x, self.weights, self.rule, steps, **options)

    def initial_state(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        seed: int = 0,
        image: Tensor | None = None,
        generator: torch.Generator | None = None,
        texture: str | Mapping[str, float] | None = None,
    ) -> Tensor:
        """The state that a rollout starts from; see `start`. [batch, C, height, width] on the device of the weights.

        Args:
            batch, height, width: In samples and cells. At least 1.
            seed: Fixes the noise, where there is any.
            image: For start="image": [3, height, width] or [batch, 3, height, width] in [0, 1].
            generator: What draws the noise in place of the seed, on any device; None draws the same on every device.
            texture: Which one grows, of an automaton that knows several: its name, or shares by name. None: the first.

        Raises:
            TypeError, ValueError: a size below 1, an image that is missing or of another shape, an unknown texture.
        """
        if self.textures:
            code = mixed(self.textures, texture)
        elif texture is not None:
            raise ValueError(f"texture must be left out for an automaton that knows one alone, but got {texture!r}.")
        x = self._uncoded(batch, height, width, seed, image, generator)
        if self.textures:
            x[:, : self.rule.frozen] = moved(code, x.device).to(x)[:, None, None]
        return x

    def _uncoded(self, batch, height, width, seed, image, generator):
        """The start state, without the code of a texture."""
        sizes = {"batch": batch, "height": height, "width": width}
        batch, height, width = (checked_integer(name, size, 1) for name, size in sizes.items())
        seed = checked_integer("seed", seed, 0, 2**64 - 1)
        weight = self._like
        shape = (batch, self.rule.channels, height, width)
        if (image is not None) != (self.start == "image"):
            got = "none" if image is None else f"one of shape {tuple(image.shape)}"
            raise ValueError(f"image must be given exactly when start is 'image', but start={self.start!r} got {got}.")
        if self.start == "zeros":
            return weight.new_zeros(shape)
        if self.start == "cell":
            return put_cell(weight.new_zeros(shape), self.rule.alive_channel, height // 2, width // 2)
        generator = torch.Generator().manual_seed(seed) if generator is None else generator
        drawn = {"generator": generator, "device": generator.device, "dtype": torch.float32}
        if self.start == "noise":
            return moved(scaled_to_unit(torch.randn(shape, **drawn)), weight.device).to(weight)
        if image.shape not in ((3, height, width), (batch, 3, height, width)):
            raise ValueError(
                f"image must have shape [3, {height}, {width}] or with the batch before, but got {list(image.shape)}."
            )
        x = moved(torch.rand(shape, **drawn) - 0.5, weight.device).to(weight)
        return put_image(x, moved(image, weight.device).to(weight), self.rule, self.rgb_channel)

    def to_rgb(self, x: Tensor, *, clamp: bool = True) -> Tensor:
        """What a state looks like. [B, C, H, W] -> [B, 3, H, W] in [0, 1]; unclamped, the read-out that losses see.

        Raises:
            ValueError: the automaton has fewer than three channels, or x is no state of it.
        """
        if self.rule.channels < 3:
            raise ValueError(f"to_rgb needs at least 3 channels, but the rule has {self.rule.channels}.")
        if x.ndim != 4 or x.shape[1] != self.rule.channels:
            raise ValueError(
                f"x must be states [B, {self.rule.channels}, H, W], but got {list(x.shape)}: show one state as "
                "x[None], those of several steps as x.flatten(0, 1)."
            )
        if self.start == "cell":
            rgb = read_living(x, self.rule, self.rgb_channel)
        else:
            rgb = x[:, self.rgb_channel : self.rgb_channel + 3] + 0.5
        return rgb.clamp(0, 1) if clamp else rgb

    def to_map(self, x: Tensor, name: str, *, clamp: bool = True) -> Tensor:
        """A map of the surface that a state shows. [B, C, H, W] -> [B, 1 or 3, H, W] in [0, 1], normals of length 1;
        unclamped, the read-out that losses see.

        Raises:
            ValueError: the automaton draws no such map.
        """
        read = x[:, channels_of(self.maps, name, self.rgb_channel)] + 0.5
        return read if not clamp else facing(read) if name == NORMAL else read.clamp(0, 1)

    def config(self) -> dict:
        """What `from_config` needs to make an automaton of the same kind. JSON-able."""
        config = {"rule": self.rule.to_json(), "rgb_channel": self.rgb_channel, "start": self.start}
        textures = {name: list(code) for name, code in self.textures.items()}
        return config | {name: held for name, held in (("textures", textures), ("maps", self.maps)) if held}

    @classmethod
    def from_config(cls, config: dict) -> "NCA":
        """An automaton with fresh weights from `config()`.

        Raises:
            ValueError: keys missing or unknown, or values that `NCA` refuses.
        """
        if set(config) - {"textures", "maps"} != {"rule", "rgb_channel", "start"}:
            raise ValueError(f"config must have the keys rule, rgb_channel, start, but got {sorted(config)}.")
        options = {name: value for name, value in config.items() if name != "rule"}
        return cls(Rule.from_json(config["rule"]), **options)

    def save_pretrained(
        self, folder: str | Path, provenance: dict | None = None, dtype: torch.dtype | None = None
    ) -> Path:
        """Writes `model.safetensors` (weights, rule, read-out, provenance) into a folder, atomically.

        Args:
            folder: Made when it is not there. Or the file: a name that ends in .safetensors and is no folder.
            provenance: JSON-able facts to keep with the weights: how they came about.
            dtype: Of the weights in the file. None: as they are. float16 halves it, and no texture was seen to suffer.

        Returns:
            The file.

        Raises:
            ValueError: the weights are not finite.
            OSError: the folder cannot be written.
        """
        from nca_fast import checkpoint

        path = Path(folder)
        path = path if path.suffix == ".safetensors" and not path.is_dir() else path / MODEL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = ("layers.", "parametrizations.kernels.")
        tensors = {name: t for name, t in self.state_dict().items() if not name.startswith(mine)}
        weights = self.weights  # as they are computed, where a layer is parametrized
        if self.rule.learned_filters:
            tensors["kernels"] = weights.pop(0)[0]
        for i, (weight, bias) in enumerate(weights):
            tensors |= {f"layers.{i}.weight": weight} | ({} if bias is None else {f"layers.{i}.bias": bias})
        tensors = {
            name: t.detach() if dtype is None else _rounded(name, t.detach(), dtype) for name, t in tensors.items()
        }
        checkpoint.save(path, tensors, {"nca": self.config(), "provenance": provenance or {}})
        return path

    @classmethod
    def from_pretrained(cls, model: str | Path) -> "NCA":
        """The automaton that `save_pretrained` wrote.

        Args:
            model: The folder or the file in it, "zoo:NAME" of an automaton that comes with nca_fast, or "hf:user/name"
                of a repository on the Hugging Face hub.

        Raises:
            OSError, ValueError: there is no such file, or it does not hold an automaton.
        """
        from nca_fast import checkpoint
        from nca_fast.pretrained import model_file

        return checkpoint.load_module(model_file(model), "nca", cls.from_config)

    def extra_repr(self) -> str:
        rule = self.rule
        filters = f"{len(rule.filters)} filters" + (f" and {rule.learned_filters} learned" * (rule.learned_filters > 0))
        return f"{rule.channels} channels, {filters}, hidden {rule.hidden}, fire rate {rule.fire_rate}"


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Gives finite numbers another type, in which they must be finite, too."""
    most = torch.finfo(dtype).max
    rounded = tensor.to(dtype)
    if tensor.isfinite().all() and not rounded.isfinite().all():
        raise ValueError(
            f"dtype must be one that holds the weights, but {name} goes to {tensor.abs().max().item():.3g} and "
            f"{dtype} to {most:.3g}: take torch.float32."
        )
    return rounded


def _weight_and_bias(name, layer):
    """Reads a layer; the fused operation does its work, so its forward and what hangs on that are never called."""
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        raise TypeError(
            f"{name} must be an nn.Linear, of which the fused operation reads weight and bias, but is now a "
            f"{type(layer).__name__}, whose forward would not run: merge it into an nn.Linear (quantised: dequantise "
            "it), or write it as a torch.nn.utils.parametrize parametrization."
        )
    if layer._forward_pre_hooks and not {"weight", "bias"} <= layer._parameters.keys():
        for hook in layer._forward_pre_hooks.values():  # the older weight_norm, spectral_norm and prune
            hook(layer, ())
    return layer.weight, layer.bias
