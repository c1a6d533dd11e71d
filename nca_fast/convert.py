"""Weights of other projects."""

from torch import Tensor

from nca_fast.nca import NCA
from nca_fast.rule import Rule

_FILTERS = ("identity", "sobel_x", "sobel_y", "laplacian")


def from_distill(state_dict: dict[str, Tensor], fire_rate: float = 0.5) -> NCA:
    """The automaton of the Distill texture notebook (PyTorch).

    That notebook perceives identity, Sobel x, Sobel y and Laplacian, unnormalised, channel by channel (input 4 c + f);
    here the order is filter by filter (f C + c), so the columns of the first layer are permuted.

    Args:
        state_dict: "w1.weight" [hidden, 4 C, 1, 1], "w1.bias" [hidden], "w2.weight" [C, hidden, 1, 1]; any widths.
        fire_rate: The notebook's update_rate, which it does not save. In [0, 1].

    Returns:
        The automaton that computes the same update.

    Raises:
        ValueError: keys or shapes are not those.

    Source: google-research/self-organising-systems, texture_nca_pytorch.ipynb.
    """
    keys = {"w1.weight", "w1.bias", "w2.weight"}
    if set(state_dict) != keys:
        raise ValueError(f"state_dict must have the keys {sorted(keys)}, but got {sorted(state_dict)}.")
    w1, b1, w2 = (state_dict[k] for k in ("w1.weight", "w1.bias", "w2.weight"))
    hidden, inputs = w1.shape[:2]
    channels = w2.shape[0]
    shapes = {k: tuple(v.shape) for k, v in state_dict.items()}
    expected = {"w1.weight": (hidden, 4 * channels, 1, 1), "w1.bias": (hidden,), "w2.weight": (channels, hidden, 1, 1)}
    if shapes != expected:
        raise ValueError(f"state_dict must have the shapes {expected}, but got {shapes}.")
    nca = NCA(Rule(channels=channels, hidden=(hidden,), filters=_FILTERS, fire_rate=fire_rate))
    by_filter = w1.reshape(hidden, channels, 4).transpose(1, 2).reshape(hidden, inputs)
    nca.load_state_dict(
        {"layers.0.weight": by_filter, "layers.0.bias": b1, "layers.1.weight": w2.reshape(channels, hidden)}
    )
    return nca
