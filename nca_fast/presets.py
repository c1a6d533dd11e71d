"""The named automata: what the systems that this project reproduces used, as data.

Only what differs from the defaults of `Rule` and `NCA` is written. Sources: study of the published code; where that is
lost (the style presets) the widths are inferred from the published parameter counts.
"""

from nca_fast.folding import shifts
from nca_fast.rule import Rule

_DISTILL = ("identity", "sobel_x", "sobel_y", "laplacian")
# Scharr's sum of absolute taps is four times Sobel's; scaled, both speak equally loudly.
_GRADIENTS = {"sobel": "sobel_{}", "scharr": "scharr_{}/4", "prewitt": "prewitt_{}"}


def style_filters(*operators: str) -> tuple[str, ...]:
    """The filters of the style presets: both directions of each gradient operator, between identity and Laplacians.

    Args:
        operators: One or more of "sobel", "scharr", "prewitt".
    """
    gradients = [_GRADIENTS[name].format(axis) for name in operators for axis in "xy"]
    return ("identity", *gradients, "laplacian", "laplacian")


def _style(filters):
    return {
        "rule": Rule(channels=18, hidden=(90, 90), filters=filters, fire_rate=1.0, frozen=3, output_bias=True),
        "rgb_channel": 3,
        "start": "image",
        "init_gain": 0.15,
    }


def _sobel(size):
    """Both generalised Sobel filters of a size, whose taps add up to 1 in magnitude."""
    return (f"sobel_x{size}/8", f"sobel_y{size}/8") if size > 3 else ("sobel_x/8", "sobel_y/8")


def _vae(channels, hidden, sizes, alive_channel):
    filters = ("identity", *(name for size in sizes for name in _sobel(size)))
    rule = Rule(
        channels=channels,
        hidden=(hidden,),
        filters=filters,
        padding="zero",
        maximum_window=3,
        alive_channel=alive_channel,
    )
    return {"rule": rule, "start": "cell"}


PRESETS = {
    # Niklasson et al., "Self-Organising Textures" (Distill 2021), PyTorch notebook. 5,856 parameters.
    "texture": {"rule": Rule()},
    # Deb, "text-2-cellular-automata" (2022). 7,808 parameters.
    "clip": {"rule": Rule(hidden=(128,)), "start": "noise"},
    # Hinno, "Neural Cellular Automata for style transfer" (2024): 17,745 and 20,985 parameters fit five and seven maps
    # per channel. Its kernels and their order are inferred: the article lists gradient filters with a Laplacian each.
    "style": _style(style_filters("sobel")),
    "style-two-filters": _style(style_filters("sobel", "scharr")),
    # Ours: the texture automaton that sees a picture. A step takes a quarter of the time that one of "style" does on a
    # CPU, so that a training has twice the iterations. 7,501 parameters.
    "strokes": {
        "rule": Rule(channels=16, filters=_DISTILL, frozen=3, output_bias=True),
        "rgb_channel": 3,
        "start": "image",
    },
    # Petersen, "Neural Cellular Automata Image Manipulation" (2022), without its three blurred channels. 16,125.
    "image-manipulation": _style(_DISTILL),
    # Mordvintsev et al., "Growing Neural Cellular Automata" (Distill 2020). 8,336 parameters.
    "growing": {
        "rule": Rule(
            channels=16,
            hidden=(128,),
            filters=("identity", *_sobel(3)),
            padding="zero",
            output_bias=True,
            alive_channel=3,
        ),
        "start": "cell",
    },
    # Chen and Wang, "Image Generation With Neural Cellular Automatas" (2020), whose weights come from a decoder
    # (models/vae_nca.py): 3,648, 18,080 and 55,552 numbers. In the published code maxima come before Sobel filters.
    "vae-mnist": _vae(channels=8, hidden=64, sizes=(3, 7), alive_channel=0),
    "vae-cifar": _vae(channels=16, hidden=160, sizes=(3, 5), alive_channel=3),
    "vae-face": _vae(channels=24, hidden=256, sizes=(3, 5, 9), alive_channel=3),
    # Pajouheshgar, Xu and Suesstrunk, "NoiseNCA: Noisy Seed Improves Spatio-Temporal Continuity of Neural Cellular
    # Automata" (ALIFE 2024). All cells fire. Its start is uniform noise in [-0.5, 0.5] times a level.
    "noise-nca": {"rule": Rule(fire_rate=1.0), "start": "noise"},
    # Pajouheshgar et al., "DyNCA: Real-time Dynamic Texture Synthesis Using Neural Cellular Automata" (CVPR 2023), one
    # scale. Channels 0 and 1 hold the place of a cell (`convert.positions`); the published W1 sees them unfiltered.
    "dynca": {
        "rule": Rule(channels=14, filters=_DISTILL, padding="replicate", frozen=2, output_bias=True),
        "rgb_channel": 2,
    },
    # Mordvintsev, Randazzo and Fouts, "Growing Isotropic Neural Cellular Automata" (ALIFE 2022), model "laplacian".
    "isotropic": {
        "rule": Rule(
            channels=16, hidden=(192,), filters=("identity", "laplacian"), alive_channel=3, alive_mask="before"
        ),
        "start": "cell",
    },
    # Guichard et al., "EngramNCA: a Neural Cellular Automaton Model of Memory Transfer" (2025). One of its two
    # automata; `rollout` runs both in turn where the weights have a time axis.
    "engram": {"rule": Rule(filters=_DISTILL, alive_channel=3, alive_mask="update"), "start": "cell"},
    # Sudhakaran, Najarro and Risi, "Goal-Guided Neural Cellular Automata: Learning to Control Self-Organising Systems"
    # (2022). Channels 0 to 19 hold the goal where cells live, as `convert.steered` has them.
    "goal-guided": {
        "rule": Rule(
            channels=40,
            hidden=(64, 64),
            filters=(),
            learned_filters=3,
            padding="zero",
            frozen=20,
            alive_channel=23,
            clamp=(-10.0, 10.0),
        ),
        "rgb_channel": 20,
        "start": "cell",
    },
    # Palm, Gonzalez Duque, Sudhakaran and Risi, "Variational Neural Cellular Automata" (ICLR 2022), MNIST.
    "vnca": {
        "rule": Rule(channels=128, hidden=(128,), filters=shifts(3), fire_rate=1.0, padding="zero", activation="elu")
    },
    # Kalkhof, Gonzalez and Mukhopadhyay, "Med-NCA: Robust and Lightweight Segmentation with Neural Cellular Automata"
    # (IPMI 2023). Channel 0 holds the image. The first layer is the cell itself and two convolutions.
    "med-nca": {
        "rule": Rule(
            channels=16,
            hidden=(48, 128),
            filters=shifts(3),
            padding="reflect",
            frozen=1,
            activation=("identity", "relu"),
        )
    },
    # marrlab's segmentation, github.com/marrlab/resilience, as its code has it. Channels 0 to 2 hold the image.
    "resilience": {
        "rule": Rule(channels=64, hidden=(128,), filters=("identity",), learned_filters=2, padding="reflect", frozen=3)
    },
    # tulerpetontidae, github.com/tulerpetontidae/nca-cellflow, as its code has it. FiLM of the hidden layers is one
    # rule for each sample.
    "cellflow": {
        "rule": Rule(
            channels=3,
            hidden=(128, 128),
            filters=_DISTILL[:3],
            fire_rate=1.0,
            padding="zero",
            output_bias=True,
            update_activation="hardtanh(10)/10",
        )
    },
    # Whitaker, github.com/johnowhitaker/game_nca, as its code has it. Channels 0 to 2 hold the picture of the game.
    "game-nca": {
        "rule": Rule(
            channels=19,
            filters=("identity", *_sobel(3), "laplacian/16"),
            frozen=3,
            update_activation="tanh/10",
        )
    },
    # Variengien, Nichele, Glover and Pontes-Filho, "Towards Self-Organized Control: Using Neural Cellular Automata to
    # Robustly Control a Cart-Pole Agent" (Innovations in Machine Intelligence 2021). Its electrodes are overwritten
    # after each step, which the caller's `after` does.
    "self-organized-control": {
        "rule": Rule(channels=6, hidden=(20, 30), filters=shifts(3), padding="zero", output_bias=True)
    },
    # Randazzo, Mordvintsev, Niklasson, Levin and Greydanus, "Self-classifying MNIST Digits" (Distill 2020). Channel 0
    # holds the digit; cells without ink do not fire: fire_rate=0.5 * (digit > 0.1) is the caller's.
    "self-classifying-mnist": {
        "rule": Rule(
            channels=20,
            hidden=(80, 80),
            filters=shifts(3),
            padding="zero",
            frozen=1,
            output_bias=True,
            update_noise=0.02,
        )
    },
}
