"""The fire mask: known answers for Philox, statistics, and that parts agree with the whole."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nca_fast.kernels.cpu import build
from rollouts import masked

from nca_fast import Rule, fire_mask, fire_masks, normal
from nca_fast.fire_masks import philox

# Known-answer vectors of the Random123 distribution for philox4x32, 10 rounds: counter, key, output.
ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, output", KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, output):
    words = philox(tuple(fire_masks.signed(torch.tensor(c)) for c in counter), key)
    assert tuple(word.item() % 2**32 for word in words) == output


def test_mask_by_its_formula_in_python_integers():
    seed, step, origin, first_sample = 0x123456789ABCDEF0, 7, (2**32 - 2, 5), 3
    mask = fire_mask(seed, step, 2, 4, 6, 0.3, origin, first_sample)
    assert mask.shape == (2, 1, 4, 6)
    for b in range(2):
        for r in range(4):
            words = ((origin[0] + r) % 2**32, first_sample + b, step, 0)
            counter = tuple(fire_masks.signed(torch.tensor(word)) for word in words)
            k0, k1, _, _ = (w.item() % 2**32 for w in philox(counter, (seed % 2**32, seed >> 32)))
            for c in range(6):
                z = ((origin[1] + c) * 0x9E3779B9 + k0) % 2**32
                z = ((z ^ (z >> 16)) * 0x21F0AAAD) % 2**32
                z = ((z ^ (z >> 15)) * 0x735A2D97) % 2**32
                z ^= z >> 15
                z ^= k1
                assert mask[b, 0, r, c].item() == (z < 0.3 * 2**32)
                if (b, r) == (1, 2):  # limits right beside it, of all bits and of the highest ones
                    for limit in (z, z + 1, z >> 16 << 16, (z >> 16) + 1 << 16, z >> 17 << 17, (z >> 17) + 1 << 17):
                        beside = fire_mask(seed, step, 2, 4, 6, limit / 2**32, origin, first_sample)
                        assert beside[b, 0, r, c].item() == (z < limit)


def test_a_part_that_wraps_around_the_canvas():
    whole = fire_mask(5, 2, 2, 7, 9, 0.5)
    part = fire_mask(5, 2, 2, 9, 9, 0.5, origin=(5, 0), canvas_height=7)
    assert torch.equal(part, whole[:, :, [5, 6, 0, 1, 2, 3, 4, 5, 6]])


def test_rates_at_the_ends():
    assert fire_mask(1, 0, 1, 64, 64, 1.0).all()
    assert not fire_mask(1, 0, 1, 64, 64, 0.0).any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate(rate):
    n = 256 * 256 * 4
    mean = fire_mask(3, 11, 4, 256, 256, rate).double().mean().item()
    assert abs(mean - rate) < 4 * (rate * (1 - rate) / n) ** 0.5  # four standard deviations; worst seen 1.6


def test_no_correlation_between_neighbours_rows_steps_samples_seeds():
    mask = torch.stack([fire_mask(seed, step, 2, 256, 256, 0.5)[:, 0] for seed in (0, 1) for step in (0, 1)])
    m = mask.double().reshape(2, 2, 2, 256, 256) * 2 - 1  # [seed, step, sample, row, column], mean 0, variance 1
    limit = 4 / (256 * 255) ** 0.5  # four standard deviations of a mean over one plane; worst seen 2.7
    for plane in m.reshape(-1, 256, 256):
        for product in (
            plane[:, 1:] * plane[:, :-1],
            plane[:, 2:] * plane[:, :-2],
            plane[1:] * plane[:-1],
            plane[1:, 1:] * plane[:-1, :-1],
        ):
            assert abs(product.mean()) < limit
    for a, b in ((m[0], m[1]), (m[:, 0], m[:, 1]), (m[:, :, 0], m[:, :, 1])):
        assert (a * b).mean(dim=(-1, -2)).abs().max() < limit


def test_rows_and_columns_are_not_periodic():
    """No row repeats another, nor does a short run of columns come back."""
    mask = fire_mask(0, 0, 1, 512, 512, 0.5)[0, 0]
    assert len(torch.unique(mask, dim=0)) == 512
    assert len(torch.unique(mask, dim=1)) == 512


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # it tells time
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2))
def test_a_part_is_cut_from_the_whole(seed, step, row, column, sample):
    whole = fire_mask(seed, step, 3, 48, 50, 0.5)
    part = fire_mask(seed, step, 3 - sample, 48 - row, 50 - column, 0.5, (row, column), sample)
    assert torch.equal(part, whole[sample:, :, row:, column:])


@pytest.mark.parametrize("rows, cells", [(1, 1), (40, 30), (45, 200), (1000, 700)])
@pytest.mark.parametrize("rate", ["map", 0.5, 1.0])
def test_masks_of_many_steps_are_those_of_each(rate, rows, cells, monkeypatch):
    """In however many blocks they are drawn."""
    rate = torch.rand(7, 9, dtype=torch.float64) if rate == "map" else rate
    where = (rate, (2**32 - 3, 2), 1, 11)
    want = [fire_mask(2**64 - 5, 2**32 - 9 + n, 2, 7, 9, *where) for n in range(6)]
    monkeypatch.setattr(fire_masks, "_ROWS", rows)
    monkeypatch.setattr(fire_masks, "_at_once", lambda device: cells)
    found = list(fire_masks.fire_masks(2**64 - 5, 2**32 - 9, 6, 2, 7, 9, *where))
    assert len(found) == 6 and all(
        torch.equal(a, b) and a.dtype == torch.bool for a, b in zip(found, want, strict=True)
    )


EXTREMES = {
    "seed": (0, 2**63 - 1, 2**63, 2**64 - 1),
    "first_step": (0, 2**31, 2**32 - 1),
    "first_sample": (0, 2**31 - 1, 2**32 - 2),
    "canvas_height": (None, 1, 2, 2**31, 2**32),
    "origin": ((0, 0), (2**31 - 1, 2**32 - 1), (2**32 - 1, 2**31)),
}


@pytest.mark.parametrize("shared", [("channel",), ("batch", "channel"), (), ("width",), ("height", "channel")], ids=str)
@pytest.mark.parametrize("name", EXTREMES)
def test_the_library_draws_the_masks_of_pytorch(name, shared, monkeypatch):
    """Where the C++ library is loaded, it draws them: of 130 columns, and of 200 x 200 cells on threads."""
    build.load()
    for value, size in itertools.product(EXTREMES[name], ((2, 4, 130), (2, 200, 200))):
        where = {"first_step": 5, "origin": (9, 2), "first_sample": 3, "canvas_height": None, "seed": 77, name: value}
        seed, step = where.pop("seed"), where.pop("first_step")
        options = where | {"shared": shared, "channels": 5, "frozen": 2}
        masks = []
        for libraries in (build._loaded_ones, []):
            monkeypatch.setattr(build, "_loaded_ones", libraries)
            masks += [[fire_mask(seed, step, *size, rate, **options) for rate in (0.5, 0.3, 0.0, 1.0)]]
            monkeypatch.undo()
        for mask, want in zip(*masks, strict=True):
            assert torch.equal(mask, want) and mask.shape == (size[0], 1 if "channel" in shared else 3, *size[1:])


def test_a_gpu_hashes_more_at_once():
    cpu, gpu = (fire_masks._at_once(torch.device(kind)) for kind in ("cpu", "cuda"))
    assert fire_masks._at_once(None) == cpu < gpu


def test_map_equals_number_where_it_is_constant():
    rate = torch.full((8, 9), 0.3, dtype=torch.float64)
    rate[:, 4:] = 1.0
    rate[0] = 0.0
    mask = fire_mask(5, 2, 2, 8, 9, rate)
    assert torch.equal(mask[:, :, 1:, :4], fire_mask(5, 2, 2, 8, 9, 0.3)[:, :, 1:, :4])
    assert mask[:, :, 1:, 4:].all() and not mask[:, :, 0].any()


@pytest.mark.parametrize("name", EXTREMES)
def test_the_kernel_has_these_masks_at_the_ends_of_all_ranges(name):
    """One number at each end of its range, the others far from theirs."""
    rule = Rule(channels=2, hidden=(3,), output_bias=True)
    for value in EXTREMES[name]:
        where = {"seed": 77, "first_step": 5, "first_sample": 3, "origin": (9, 2), "canvas_height": None, name: value}
        step, canvas = where["first_step"], where["canvas_height"]
        want = fire_mask(where["seed"], step, 2, 4, 21, 0.5, where["origin"], where["first_sample"], canvas)
        for backend in ("cpu", "reference"):
            y = masked(rule, (2, 2, 4, 21), backend=backend, **where)
            assert torch.equal(y[:, 1:], want.float()), (backend, name, value)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", (-1, 2**64)),
        ("first_step", (-1, 2**32, 2**63 - 1, 2**63, 2**64)),
        ("first_sample", (-1, 2**32 - 1, 2**32, 2**63 - 1, 2**64)),
        ("canvas_height", (0, -1, 2**32 + 1, 2**63 - 1)),
        ("origin", ((-1, 0), (0, -1), (2**32, 0), (0, 2**32), (2**63 - 1, 0), (0, 2**63))),
    ],
)
def test_numbers_beyond_the_ranges_are_refused(name, values, backend):
    rule = Rule(channels=2, hidden=(3,), output_bias=True)
    for value in values:
        with pytest.raises(ValueError, match=name):
            masked(rule, (2, 2, 4, 21), backend=backend, **{"seed": 77, name: value})
        where = {"seed": 77, "step": 5, "step" if name == "first_step" else name: value}
        for draw in (partial(fire_mask, fire_rate=0.5), partial(normal, channels=2)):  # where they would wrap around
            with pytest.raises(ValueError, match=name.removeprefix("first_")):
                draw(**where, batch=2, height=4, width=21)
