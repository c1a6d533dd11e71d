"""VGG-16 and VGG-19, trained on ImageNet, as feature extractors; torchvision is imported on construction only."""

from __future__ import annotations

import importlib.util
import os
import urllib.request
from pathlib import Path

import torch
from torch import nn

from nca_fast.features.half import halve, in_half
from nca_fast.features.pixels import Normalize, pink_noise
from nca_fast.features.torchvision_compat import import_torchvision

# First ReLU of each block, as positions in torchvision's `features`.
_LAYERS = {"vgg16": (1, 6, 11, 18, 25), "vgg19": (1, 6, 11, 20, 29)}
# What torchvision calls their files, here so that nobody has to import it to look for them.
_FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
_CONNECT_TIMEOUT = 15.0  # seconds
_OTHERWISE = "or use features='random' (no weights needed) or 'patches'"


def cache_file(name: str) -> Path:
    """Says where torchvision keeps the weights of `vgg16` or `vgg19`, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _FILES[name]


def at_hand(name: str) -> bool:
    """Whether `VGG(name)` can be made without a download: the weights are there, and torchvision is."""
    return cache_file(name).is_file() and importlib.util.find_spec("torchvision") is not None


class VGG(nn.Module):
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of torchvision's VGG, and the normalised pixels.

    Zero padding and max pooling, as the network was trained. Pictures must be at least 16x16.

    Args:
        name: `vgg16` or `vgg19`.
        weights: a .pth or .safetensors file with torchvision's state dict (names `features.0.weight`, or without
            `features.`; other entries are left alone). None: torchvision's cache, and if it is not there, its download.
        dtype: what it multiplies: torch.float32, or float16 or bfloat16 for a GPU (see `half`).

    Returns (of the call):
        [B, 3, H, W] and five maps of 64, 128, 256, 512 and 512 channels, each half the size of the one before it.

    Raises:
        ValueError: unknown name; a file that is no such state dict.
        OSError: no weights and no way to download them.
        ImportError: no torchvision.

    Source: Simonyan and Zisserman 2014; the layers of the Distill texture notebook (Niklasson et al. 2021).
    """

    def __init__(
        self,
        name: str = "vgg16",
        weights: str | os.PathLike | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if name not in _LAYERS:
            raise ValueError(f"name must be one of {', '.join(_LAYERS)}, but got {name!r}.")
        self.layers = _LAYERS[name]
        self.normalize = Normalize(min_size=16)
        models = import_torchvision().models
        with torch.device("meta"):  # no time spent on initial values, nor on the 120 million weights of the classifier
            self.features = getattr(models, name)(weights=None).features[: self.layers[-1] + 1]
        if weights is None:
            url = getattr(models, f"{name.upper()}_Weights").IMAGENET1K_V1.url
            weights = _cached_or_downloaded(name, url)
        self.features.load_state_dict(_select(_read(Path(weights)), self.features, weights, name), assign=True)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.eval()
        self.factors = [] if dtype == torch.float32 else self._halve(dtype)

    def train(self, mode: bool = True) -> VGG:
        """Nothing here trains; the module stays in evaluation mode."""
        return super().train(False)

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        x = self.normalize(rgb)
        return [x, *in_half(self._maps, x, self.features[0].weight.dtype, self.factors)]

    def _maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                maps.append(x)
        return maps

    @torch.no_grad()
    def _halve(self, dtype: torch.dtype) -> list[float]:
        """Halves the convolutions; returns the factors of the maps."""
        x, largest, at = pink_noise(torch.Generator().manual_seed(0), 1, 64), [], []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                largest.append(float(x.abs().max()))
            if index in self.layers:
                at.append(len(largest) - 1)
        factors = halve([layer for layer in self.features if isinstance(layer, nn.Conv2d)], largest, dtype)
        return [factors[n] for n in at]


def _cached_or_downloaded(name: str, url: str) -> Path:
    cached = cache_file(name)
    if cached.is_file():
        return cached
    try:
        # torch.hub waits for ever on a silent network, so a first request with a time limit finds that out.
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_CONNECT_TIMEOUT).close()
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{name} needs trained weights, but there are none in {cached} and the download failed ({error}). Fetch "
            f"{url} on a machine with internet and put it there, or pass weights=FILE (--weights FILE), {_OTHERWISE}."
        ) from error
    return cached


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"weights must be an existing file, but there is none at {str(path)!r}; {_OTHERWISE}.")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f"the weights file must end in .pth, .pt or .safetensors, but got {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers, zip readers and safetensors each have their own kinds
        raise ValueError(
            f"the weights file {str(path)!r} cannot be read, it is damaged, cut short or no state dict "
            f"({type(error).__name__}); remove it and fetch it again, {_OTHERWISE}."
        ) from error
    if isinstance(state, dict):
        return state
    raise ValueError(f"the weights file {str(path)!r} must hold a state dict, but holds a {type(state).__name__}.")


def _select(state: dict, features: nn.Module, path: str | os.PathLike, name: str) -> dict[str, torch.Tensor]:
    """The entries of `state` that `features` needs, float32; ValueError when one is missing or of another shape."""
    selected = {}
    for key, wanted in features.state_dict().items():
        found = state.get(f"features.{key}", state.get(key))
        if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
            got = tuple(found.shape) if isinstance(found, torch.Tensor) else "nothing of that name"
            raise ValueError(
                f"the weights file {os.fspath(path)!r} must hold torchvision's {name}: features.{key} should be "
                f"{tuple(wanted.shape)}, but there is {got}."
            )
        selected[key] = found.float()
    return selected
