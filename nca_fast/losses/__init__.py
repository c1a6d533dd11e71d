"""What trainings minimise: functions and modules that turn states and feature maps into scalars.

All are sums over cells and samples, so that weights between them hold for every canvas size and batch.
"""

from collections.abc import Callable

from torch import Tensor


def weighted(**terms: tuple[float, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Computes the losses whose weight is not 0, each times its weight, in the order in which they are given.

    Args:
        terms: (weight, function that computes the loss) by name.
    """
    return {name: weight * loss() for name, (weight, loss) in terms.items() if weight}
