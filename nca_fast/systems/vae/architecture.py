"""What a VAE-NCA is, apart from its weights: the three models of the paper, as data.

Source: Chen and Wang, "Image Generation With Neural Cellular Automatas" (2020); encoders and widths of the perceptrons
are those of the published code.
"""

from dataclasses import asdict, dataclass

from nca_fast.presets import PRESETS
from nca_fast.rule import Rule

# A convolution of the encoder: channels, kernel size, stride, padding, whether 2x2 maxima follow.
Convolution = tuple[int, int, int, int, bool]


@dataclass(frozen=True)
class Architecture:
    """What a VAE-NCA is, apart from its weights.

    Args:
        rule: One step of the automaton. `alive_channel` is the picture itself when `grey`, or else follows its RGB.
        size: Rows and columns of the pictures and of the canvas, in cells.
        latent: Numbers in a latent vector (E in the paper).
        steps: Updates from the living cell to the picture (T).
        encoder: Its convolutions, first to last; the last leaves one pixel.
        decoder: Hidden widths of each of the three perceptrons.
        grey: Whether a picture is one channel, alpha, or four, RGBA with alpha 1.
    """

    rule: Rule
    size: int
    latent: int
    steps: int
    encoder: tuple[Convolution, ...]
    decoder: tuple[int, ...]
    grey: bool

    @property
    def picture_channels(self) -> int:
        """Channels of a picture at the encoder: 1 or 3."""
        return 1 if self.grey else 3

    def config(self) -> dict:
        """The fields as JSON can hold them."""
        return asdict(self) | {"rule": self.rule.to_json()}

    @classmethod
    def from_config(cls, config: dict) -> "Architecture":
        """The architecture whose `config()` this is.

        Raises:
            ValueError: fields missing or unknown.
        """
        if set(config) != set(cls.__dataclass_fields__):
            raise ValueError(f"an architecture must have {sorted(cls.__dataclass_fields__)}, but got {sorted(config)}.")
        rule, encoder = Rule.from_json(config["rule"]), tuple(tuple(layer) for layer in config["encoder"])
        return cls(**config | {"rule": rule, "encoder": encoder, "decoder": tuple(config["decoder"])})


def _block(channels, kernel, count):
    """`count` convolutions that keep the size, the last followed by 2x2 maxima."""
    return tuple((channels, kernel, 1, kernel // 2, i == count - 1) for i in range(count))


ARCHITECTURES = {
    "vae-mnist": Architecture(
        PRESETS["vae-mnist"]["rule"],
        size=28,
        latent=32,
        steps=64,
        encoder=(
            *_block(8, 3, 2),
            *_block(16, 3, 2),
            (32, 3, 1, 1, False),
            (64, 5, 2, 2, False),
            (64, 4, 1, 0, False),
        ),
        decoder=(512, 512),
        grey=True,
    ),
    "vae-cifar": Architecture(
        PRESETS["vae-cifar"]["rule"],
        size=32,
        latent=1024,
        steps=128,
        encoder=(
            *_block(64, 5, 3),
            *_block(128, 3, 3),
            *((256, 3, 1, 1, False),) * 2,
            (512, 5, 2, 2, False),
            (1024, 4, 1, 0, False),
        ),
        decoder=(2048,) * 4,
        grey=False,
    ),
    "vae-face": Architecture(
        PRESETS["vae-face"]["rule"],
        size=40,
        latent=1024,
        steps=160,
        encoder=(
            *_block(64, 7, 3),
            *_block(128, 3, 3),
            *_block(256, 3, 2),
            (512, 5, 2, 2, False),
            (1024, 3, 1, 0, False),
        ),
        decoder=(2048,) * 4,
        grey=False,
    ),
}
