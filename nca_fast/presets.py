"""The named automata: what the systems that this project reproduces used, as data.

Only what differs from the defaults of `Rule` and `NCA` is written. Sources: study of the published code; where that is
lost (the style presets) the widths are inferred from the published parameter counts.
"""

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
}
