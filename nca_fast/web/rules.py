"""What the page needs of a VAE-NCA: the rules of some of its codes, for its decoder is too large for a page.

A decoder writes a rule of some kilobytes and takes a hundred times as many itself. So the page gets rules, of pictures
that differ, and what lies between two of them it makes by mixing their weights.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from nca_fast import checkpoint
from nca_fast.media.datasets import load_pictures
from nca_fast.media.sources import DATA_SETS
from nca_fast.nca import NCA
from nca_fast.systems.vae.model import VAENCA

LEAST, MOST = 2, 8  # rules of a model
ROOM = 300_000  # bytes that they should not exceed
LOOKED_AT = 500  # pictures among which those that differ are chosen


def is_vae(path: Path) -> bool:
    """Whether a file holds a VAE-NCA."""
    return "vae" in checkpoint.load_metadata(path)


@dataclass(frozen=True)
class Rules:
    """The rules of some codes.

    Args:
        file: Safetensors, the rules along the first axis of each tensor.
        first: The automaton of the first.
        steps: After which its picture is there.
        side: Of its canvas, in cells.
    """

    file: bytes
    first: NCA
    steps: int
    side: int


def read_rules(path: Path, dataset: str | None = None) -> Rules:
    """Decodes the rules of some codes.

    Args:
        path: A VAE-NCA.
        dataset: Of whose test pictures the codes are, as in `load_pictures`. None: of the bundled set that the model
            learned; where it names another one, which may be anybody's folder, codes are samples from the prior.

    Raises:
        OSError, ValueError: The file cannot be read.
    """
    vae = VAENCA.from_pretrained(path)
    size = 4 * sum(outputs * inputs + outputs for outputs, inputs, _ in vae.rule.layers)
    count = max(LEAST, min(MOST, ROOM // size))
    codes, names = _codes(vae, path, dataset, count)
    with torch.no_grad():
        layers = vae.weights(codes)
    shown = NCA(vae.rule, rgb_channel=0, start="cell")  # for the facts that all models of the page have
    tensors = {}
    for number, (weight, bias) in enumerate(layers):
        tensors |= {f"layers.{number}.weight": weight} | ({} if bias is None else {f"layers.{number}.bias": bias})
    architecture = vae.architecture
    facts = {"nca": shown.config(), "rules": names, "side": architecture.size}
    facts |= {"provenance": {"shown_steps": architecture.steps}}
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    shown.load_state_dict({name: tensor[0] for name, tensor in tensors.items()})
    file = save(tensors, metadata={"format": "pt", checkpoint.HEADER_KEY: json.dumps(facts)})
    return Rules(file, shown, architecture.steps, architecture.size)


def _codes(vae: VAENCA, path: Path, dataset: str | None, count: int) -> tuple[Tensor, list[str]]:
    """Codes [count, latent] and what they are called."""
    architecture = vae.architecture
    if dataset is None:
        dataset = _learned(path)
    pictures = () if dataset is None else load_pictures(dataset, architecture.size, architecture.grey).test[:LOOKED_AT]
    if len(pictures) < count:
        samples = torch.randn(count, architecture.latent, generator=torch.Generator().manual_seed(0))
        return samples, [f"Sample {number + 1}" for number in range(count)]
    with torch.no_grad():
        codes = vae.encode(pictures)[0]
    chosen = spread(codes, count)
    return codes[chosen], [f"No. {number}" for number in chosen]


def _learned(path: Path) -> str | None:
    """The bundled set that a model learned; None, and a warning, where it names another one: its paths are no paths."""
    dataset = checkpoint.load_metadata(path).get("provenance", {}).get("dataset")
    if dataset in DATA_SETS:
        return dataset
    warnings.warn(
        "this model learned no bundled data set: the page gets samples from its prior. Name the folder of the pictures "
        "by --dataset, and it gets rules of those.",
        stacklevel=2,
    )
    return None


def spread(codes: Tensor, count: int) -> list[int]:
    """Chooses codes that differ: the first, and again and again the one that is farthest from those that were chosen.

    Args:
        codes: [N, latent], N at least `count`.
        count: How many.
    """
    chosen = [0]
    near = (codes - codes[0]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(near.argmax()))
        near = torch.minimum(near, (codes - codes[chosen[-1]]).square().sum(1))
    return chosen
