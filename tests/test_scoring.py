"""The score: what its parts measure, and that its scale is one."""

import math

import pytest
import torch

from nca_fast.scoring.content import content_kept
from nca_fast.scoring.differences import differences
from nca_fast.scoring.patterns import hellinger, histograms, pattern_codes
from nca_fast.scoring.scale import Distances, scaled, together
from nca_fast.scoring.score import score
from nca_fast.scoring.spectrum import autocorrelation, periodic, phase_randomised, seam, spectrum
from nca_fast.scoring.views import wave_view
from nca_fast.scoring.wavelets import opponent, wavelet_maps

SIDE = 64


def waves(period=8, angle=0.0, height=SIDE, width=SIDE):
    """Grey waves that run along the columns, turned by an angle in radians."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
    return (0.5 + 0.3 * phase.sin()).expand(3, -1, -1).contiguous()


def discs(seed=0, side=128, radius=5, count=40):
    """Coloured discs on white, on a torus: nothing that a Gaussian could be."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    picture = torch.full((3, side, side), 0.9)
    for _ in range(count):
        cy, cx = torch.rand(2, generator=generator) * side
        down, right = ((a - c + side / 2) % side - side / 2 for a, c in ((y, cy), (x, cx)))
        picture[:, torch.hypot(down, right) < radius] = torch.rand(3, 1, generator=generator) * 0.5
    return picture


def gaussian(seed, side):
    """Noise that is all its spectrum."""
    return (0.5 + 0.1 * torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def noise(seed=0, side=SIDE):
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def test_opponent_colours_keep_lengths_and_grey_has_none():
    rgb = noise()
    turned = opponent(rgb)
    # Rounding of three products of order 1.
    torch.testing.assert_close(turned.square().sum(0), rgb.square().sum(0), rtol=1e-5, atol=1e-6)
    assert opponent(waves())[1:].abs().max() < 1e-6


def test_waves_are_seen_at_their_scale_and_orientation():
    """The logarithms of the luminance's magnitudes, the first four of a map, peak where the wave is."""
    for angle, orientation in ((0.0, 0), (math.pi / 2, 2)):
        maps = wavelet_maps(waves(8, angle), 3)
        means = torch.stack([found[:4].mean((1, 2)) for found in maps])
        assert divmod(int(means.argmax()), 4) == (1, orientation)  # period 8: one octave below the finest
    # Magnitudes know no phase: they are the same everywhere. (The step of the border is left out.)
    assert maps[1][orientation].std() < 0.01


def test_maps_move_with_the_picture():
    picture = discs()
    for found, moved in zip(wavelet_maps(picture, 2), wavelet_maps(picture.roll((8, 16), (1, 2)), 2), strict=True):
        step = 128 // (found.shape[1] + 4)
        inner = found[:, :20, :20]
        shifted = moved[:, 8 // step : 8 // step + 20, 16 // step : 16 // step + 20]
        torch.testing.assert_close(inner, shifted, rtol=1e-4, atol=1e-4)  # worst seen 5e-6: transforms of 128 points


def test_an_edge_has_one_phase_and_its_spectrum_none():
    """Coupling of phases: the maps 16 to 24 are large where steps are, and vanish in the mean without."""
    stripes = (waves(32) > 0.5).float()
    coupled = wavelet_maps(stripes, 2)[1][16:24].mean((1, 2)).abs().max()
    uncoupled = wavelet_maps(phase_randomised(noise(side=128), 1), 2)[1][16:24].mean((1, 2)).abs().max()
    assert coupled > 3 * uncoupled


def test_patterns_are_directions_of_neighbours():
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32).contiguous()  # brighter to the right
    (codes,) = pattern_codes(ramp, 1, contrast=0.01)
    right = sum(2**bit for bit in (2, 3, 4))
    left = sum(2**bit for bit in (0, 6, 7))
    assert set(codes[0].unique().tolist()) == {right} and set(codes[1].unique().tolist()) == {left}
    (flat,) = pattern_codes(ramp, 1, contrast=10.0)  # the differences are nothing beside such a contrast
    assert not flat.any()
    shares = histograms(codes.flatten(1))
    assert hellinger(shares, shares) == pytest.approx(0, abs=1e-12)
    assert hellinger(shares, histograms(flat.flatten(1))) == pytest.approx(1)


def test_phase_randomised_pictures_keep_spectrum_and_colours_alone():
    picture = 0.5 + 0.15 * (discs() - discs().mean((1, 2), keepdim=True))
    turned = phase_randomised(picture, 3)
    assert (turned - picture).abs().mean() > 0.03
    # The discs lie on a torus, and the contrast is so small that nothing is clipped.
    for channel in range(3):
        torch.testing.assert_close(
            torch.fft.fft2(turned[channel].double()).abs(),
            torch.fft.fft2(periodic(picture[channel].double())).abs(),
            rtol=1e-3,
            atol=0.02,  # float32 pixels: 128 of 6e-8
        )
    covariance, wanted = (torch.cov(x.flatten(1)) for x in (turned, picture))
    torch.testing.assert_close(covariance, wanted, rtol=0.05, atol=5e-5)  # the jumps at the border are gone: 2 %
    assert torch.equal(turned, phase_randomised(picture, 3))


def test_periodic_takes_ramps_and_leaves_tori():
    ramp = torch.linspace(0, 1, SIDE, dtype=torch.float64).expand(3, SIDE, SIDE)
    assert periodic(ramp).std() < 0.1 * ramp.std()
    assert float(periodic(ramp).mean()) == pytest.approx(0.5)
    torus = waves(8).double()
    assert (periodic(torus) - torus).abs().max() < 0.15  # a step of the wave, 0.21, is at the border, too


def test_spectrum_and_autocorrelation_find_a_period():
    assert (spectrum(waves(8)) - spectrum(waves(8).roll(3, 2))).abs().max() < 1
    assert (spectrum(waves(8)) - spectrum(waves(8, math.pi / 2))).abs().max() > 20
    found = autocorrelation(waves(8))
    middle = found[SIDE // 4]
    assert float(middle[0]) == pytest.approx(1)
    assert float(middle[8]) > 0.8 and float(middle[4]) < -0.8


def test_seam():
    torus = waves(8).roll(2, 2)  # the first column is a crest
    assert seam(torus) == 0
    cut = torus[:, :, : SIDE - 4]  # half a period is missing
    assert seam(cut) > 0.5
    assert seam(cut.transpose(1, 2)) == pytest.approx(seam(cut), rel=1e-5)


def test_the_scale_is_linear_and_knows_when_it_is_none():
    found = scaled(Distances(picture=[0.2, 0.4], real=[0.1, 0.1, 0.1], phase=[0.5, 0.5]))
    assert found.score == pytest.approx(0.5) and found.says
    # The error has the picture's own spread, 0.141, and at least an eighth of what halves differ by.
    assert found.error == pytest.approx(math.hypot(0.1414214, 0.0125) / 0.4, rel=1e-4)
    vague = scaled(Distances(picture=[0.2], real=[0.1, 0.2, 0.3], phase=[0.35, 0.35]))
    assert not vague.says and vague.score == pytest.approx(0)
    backwards = scaled(Distances(picture=[0.2], real=[0.1, 0.1, 0.1], phase=[0.05, 0.05]))
    assert not backwards.says and math.isnan(backwards.score)


def test_measures_together_are_their_geometric_mean_in_units_of_real_halves():
    a = Distances(picture=[2.0], real=[1.0, 1.0, 1.0], phase=[4.0])
    b = Distances(picture=[80.0], real=[10.0, 10.0, 10.0], phase=[10.0])
    merged = together({"a": a, "b": b})
    assert merged.picture == pytest.approx([4.0]) and merged.phase == pytest.approx([2.0])
    assert merged.real == pytest.approx([1.0] * 3)


def test_a_score_orders_pictures_and_its_ends_are_0_and_1():
    def some(seed, radius=4, count=20):
        return discs(seed, 72, radius, count)

    original = some(0)
    pictures = {
        "same kind": [some(1), some(2)],
        "phase": [phase_randomised(some(1), 5)],
        "smaller discs": [some(1, 2.5, 50)],
        "noise": [noise(side=72)],
    }
    found = {name: score(shown, original) for name, shown in pictures.items()}
    assert all(each.total.says for each in found.values())
    scores = {name: each.total.score for name, each in found.items()}
    assert abs(scores["same kind"]) < 0.4
    assert 0.5 < scores["phase"] < 1.5
    assert scores["same kind"] < scores["smaller discs"] < scores["noise"]
    assert scores["noise"] > 2
    assert found["same kind"].missing or "vgg16" in found["same kind"].measures


def test_noise_is_its_own_spectrum_and_the_score_says_so():
    found = score([gaussian(1, 64)], gaussian(0, 96))
    assert not found.total.says
    assert "says nothing" in found.lines()[0]
    assert found.total.distance < 2


def test_halves_that_do_not_differ_have_a_unit():
    exact = Distances(picture=[1.0], real=[0.0, 0.0, 0.0], phase=[10.0])
    assert exact.unit() == pytest.approx(1e-3)
    assert together({"exact": exact}).picture == pytest.approx([1000.0])


def test_transport_compares_ranks_of_clouds_of_any_size():
    against = wave_view(1).distances["waves-transport"]
    many, few = (torch.linspace(0, 1, n).expand(5, n).contiguous() for n in (1000, 250))
    assert against([many])([few]) < 1e-5  # a quarter of a step of the few, squared
    assert against([many])([few + 0.5]) == pytest.approx(against([many])([many + 0.5]), rel=0.02)


@pytest.mark.parametrize("original", [(waves(16, height=64, width=64) > 0.5).float(), torch.full((3, 64, 64), 0.4)])
def test_originals_whose_halves_are_the_same(original):
    """Stripes, and a single colour: halves do not differ, and nothing is divided by that."""
    same, other = (score([picture], original) for picture in (original, noise(side=64)))
    assert same.total.times <= 1.01 and other.total.times > 100
    for found in (same, other):
        assert "repeats itself exactly" in found.lines()[1] and "times another half" not in "".join(found.lines())
    assert "times as far" in score([noise(2, 64)], discs(side=96)).lines()[1]
    assert "nan" not in "".join(same.lines() + other.lines())
    assert math.isfinite(other.total.times)


def test_grey_stays_grey():
    """A tint that no wave sees is in the colours."""
    original, tint = waves(), torch.tensor([0.1, 0.0, -0.1])[:, None, None]
    plain, tinted = (differences([picture], original)["color"] for picture in (original, original + tint))
    assert tinted.value > plain.value + 10  # levels
    assert plain.value < 1


def test_differences_of_parts_are_those_of_an_original():
    found = differences([noise(1)], noise(0, 128))
    for name in ("spectrum", "autocorrelation", "color"):
        assert found[name].value == pytest.approx(found[name].real, rel=0.3), name


def test_content():
    original = discs(0)
    assert content_kept(original, original) == pytest.approx(1)
    restained = torch.stack([original[2], 1 - original[0], original[1]])
    assert content_kept(restained, original) > 0.5
    assert abs(content_kept(discs(3), original)) < 0.3


@pytest.mark.parametrize(
    ("pictures", "original", "message"),
    [
        ([], (3, 64, 64), "pictures must be at least one"),
        ([(3, 16, 64)], (3, 64, 64), "picture must have at least 32 pixels .* 16 x 64. Draw a larger one"),
        ([(3, 64, 64)], (3, 16, 64), "reference must have .* 16 x 64. Take a larger one, or shrink it less"),
        ([(3, 64, 64)], (1, 64, 64), r"reference must be a float \[3, h, w\], but is torch.float32 \[1, 64, 64\]"),
    ],
)
def test_what_cannot_be_measured(pictures, original, message):
    with pytest.raises(ValueError, match=message):
        score([torch.rand(size) for size in pictures], torch.rand(original))


def test_pictures_that_blew_up_are_refused():
    with pytest.raises(ValueError, match="picture must be finite, .* blew up"):
        score([torch.full((3, 64, 64), math.nan)], noise())
