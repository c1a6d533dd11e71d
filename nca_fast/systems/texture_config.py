"""The settings of a texture training."""

from dataclasses import dataclass

from nca_fast.training import settings
from nca_fast.training.settings import Features, StyleLoss, TrainingConfig

SMALLEST_IMAGE = 16  # VGG halves a picture four times
FREE_ON_RESUME = (*settings.FREE_ON_RESUME, "picture_steps", "video_steps")


@dataclass(frozen=True)
class TextureConfig(TrainingConfig):
    """Settings of a texture training.

    The defaults are the recipe of the Distill notebook, changed to give the best picture after minutes on a few CPU
    cores (see bench/texture_defaults.py): many cheap iterations, each of one state, in place of few with a batch.
    """

    image_crop: int | None = None
    """Learn only a square of so many pixels from the middle of the picture, for details that shrinking would lose.
    None: learn all of it."""
    image_size: int = 128
    """What is learned is shrunk until its longer side has this many pixels; the canvas is a square of so many cells."""
    preset: str = "texture"
    """Named automaton to train: its channels, hidden widths and filters."""
    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed. (The notebook: 5000.)"""
    learning_rate: float = 2e-3
    """Step size of Adam, before the milestones. With the notebook's 1e-3 short runs get nowhere; what is learned with
    4e-3 is sharp early, but may blow up on large canvases."""
    pool_size: int = 32
    """States that live on between iterations. They take memory and disk: 0.8 MB each at 128 x 128 cells."""
    loss: StyleLoss = "w2"
    """How textures are compared: Wasserstein-2 distance of Gaussians, sliced optimal transport, or Gram matrices."""
    features: Features = "random"
    """What is compared: a random network or patches need no download, vgg16 and vgg19 are better and need weights."""
    weights: str | None = None
    """File with the weights of vgg16 or vgg19. None: torchvision's cache, or its download."""
    projections: int = 32
    """Random directions on which --loss ot compares, for each set of features."""
    picture_steps: int = 256
    """Steps of the rollout that ends as texture.png, at four times the training size."""
    video_steps: int = 1890
    """Steps shown in texture.mp4, at twice the training size; 1890 make 10 seconds. 0: no video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=SMALLEST_IMAGE, image_crop=SMALLEST_IMAGE, picture_steps=1, video_steps=0)
        self.check_style_loss()
