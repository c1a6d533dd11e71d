"""The names and words among which settings choose; each stands for what lies in the module named beside it.

They are apart from what they stand for because the command line reads them before torch is loaded.
"""

from pathlib import Path
from typing import Literal

PrecisionName = Literal["fp32", "tf32", "fp16", "bf16"]  # backends
BackendName = Literal["reference", "convolutions", "cpu", "triton"]  # backends
FeaturesName = Literal["random", "patches", "dictionary", "vgg16", "vgg19"]  # features
FeaturesChoice = Literal["auto", FeaturesName]
StyleLossName = Literal["ot", "gram", "w2"]  # losses.style
ContentLossName = Literal["structure", "features", "gram"]  # losses.content
DistanceName = Literal["dot", "cosine", "spherical"]  # losses.clip
GridName = Literal["square", "hex"]  # hexagons
BlendName = Literal["soft", "poisson"]  # rendering.fill
OptimizerName = Literal["adam", "muon"]  # training.optimizers
VAEPreset = Literal["vae-mnist", "vae-cifar", "vae-face"]  # systems.vae.architecture


def small_words() -> list[str]:
    """Lists the words that the small CLIP model knows, of which its prompts are made."""
    return sorted((Path(__file__).parent / "features/small_clip/words.txt").read_text(encoding="utf-8").split())
