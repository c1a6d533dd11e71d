"""The named automata: what the systems that this project reproduces used, as data.

Only what differs from the defaults of `Rule` and `NCA` is written. Sources: study of the published code; where that is
lost (the style presets) the widths are inferred from the published parameter counts.
"""

from nca_fast.rule import Rule

_DISTILL = ("identity", "sobel_x", "sobel_y", "laplacian")
# Scharr's sum of absolute taps is four times Sobel's; scaled, both speak equally loudly.
_SCHARR = ("scharr_x/4", "scharr_y/4")


def _style(filters):
    return {
        "rule": Rule(channels=18, hidden=(90, 90), filters=filters, fire_rate=1.0, frozen=3, output_bias=True),
        "rgb_channel": 3,
        "start": "image",
        "init_gain": 0.15,
    }


PRESETS = {
    # Niklasson et al., "Self-Organising Textures" (Distill 2021), PyTorch notebook. 5,856 parameters.
    "texture": {"rule": Rule()},
    # Deb, "text-2-cellular-automata" (2022). 7,808 parameters.
    "clip": {"rule": Rule(hidden=(128,)), "start": "noise"},
    # Hinno, "Neural Cellular Automata for style transfer" (2024): 17,745 and 20,985 parameters fit five and seven maps
    # per channel. Its kernels and their order are inferred: the article lists gradient filters with a Laplacian each.
    "style": _style((*_DISTILL, "laplacian")),
    "style-two-filters": _style((*_DISTILL, *_SCHARR, "laplacian")),
    # Petersen, "Neural Cellular Automata Image Manipulation" (2022), without its three blurred channels. 16,125.
    "image-manipulation": _style(_DISTILL),
}
