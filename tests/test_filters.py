"""Filters against the numbers in the papers."""

import pytest
import torch

from nca_fast import filters
from nca_fast.filters import Filter


def test_distill_filters():
    assert filters.named("sobel_x").kernel == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert filters.named("sobel_y").kernel == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    assert filters.named("laplacian").kernel == [[1, 2, 1], [2, -12, 2], [1, 2, 1]]
    assert filters.named("sobel_x/8").kernel == [[-1 / 8, 0, 1 / 8], [-1 / 4, 0, 1 / 4], [-1 / 8, 0, 1 / 8]]
    assert filters.named("scharr_x").kernel[1] == [-10, 0, 10]
    assert filters.named("prewitt_y").kernel == [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("name", filters.NAMES)
def test_response_to_constants_and_ramps(name):
    """Derivative filters answer nothing to a constant, and a ramp by its slope in the right direction."""
    kernel = torch.tensor(filters.named(name).kernel, dtype=torch.float64)
    reach = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    along_x, along_y = (kernel * reach).sum(), (kernel * reach[:, None]).sum()
    if name == "identity":
        assert kernel.sum() == 1
    else:
        assert abs(kernel.sum()) < 1e-12
    if "_x" in name:
        assert along_x > 1
    if "_y" in name:
        assert along_y > 1
        assert abs(along_x) < 1e-12 or name.startswith("hex")
    if "laplacian" in name:
        assert along_x == along_y == 0


def test_generalised_sobel_is_that_of_vae_nca():
    """gx = i / (i^2 + j^2) / sum|gx|; the sums are those of the published code."""
    for size, total in ((5, 8.4), (7, 12.8718), (9, 17.3683)):
        kernel = torch.tensor(filters.named(f"sobel_x{size}/8").kernel, dtype=torch.float64)
        assert kernel.abs().sum() == pytest.approx(1)
        assert kernel[size // 2, size // 2 + 1].item() == pytest.approx(1 / total, rel=1e-5)
        assert torch.equal(torch.tensor(filters.named(f"sobel_y{size}/8").kernel, dtype=torch.float64), kernel.T)


def test_hexagonal_filters_see_six_neighbours():
    for name in ("hex_sobel_x", "hex_sobel_y", "hex_laplacian"):
        kernel = filters.named(name).kernel
        assert kernel[0][0] == kernel[2][2] == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: filters.named("sobel"), "filter must be one of hex_laplacian"),
        (lambda: filters.named("sobel_x/0"), "divisor of a filter must be a positive number, but got 'sobel_x/0'"),
        (lambda: Filter("a", ((1, 2), (3, 4))), "square with odd size 1 to 9, but got 2 rows"),
        (lambda: Filter("a", ((1, 2, 3),)), "square with odd size"),
        (lambda: Filter("a", ((float("nan"),),)), "must be finite"),
        (lambda: Filter("a", ((1,),), scale=float("inf")), "must be finite"),
    ],
)
def test_bad_filters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
