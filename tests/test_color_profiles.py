"""Pictures with colour profiles are those that a viewer shows; a profile that cannot be used hurts nobody."""

import struct
import warnings

import icc
import numpy as np
import pytest
import torch
from PIL import Image, features

from nca_fast.media.images import load_image, load_rgba

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def in_srgb(colorants, linear):
    """Linear light in other primaries -> bytes of sRGB, in float64. [..., 3]"""
    return 255 * icc.from_linear(linear @ np.transpose(np.linalg.inv(icc.SRGB) @ colorants))


def shown(path):
    return load_image(path).permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "avif"])
def test_wide_gamuts(tmp_path, ending):
    """LittleCMS rounds to bytes and works with tables: worst seen 0.9 levels in this file. Without it 60 levels off."""
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}, "avif": {"quality": 100}}
    path = tmp_path / f"a.{ending}"
    for colorants, gamma in ((icc.DISPLAY_P3, None), (icc.ADOBE_RGB, 563 / 256)):
        profile = icc.rgb_profile(colorants, gamma)
        Image.fromarray(PIXELS).resize((18, 12), Image.Resampling.BICUBIC).save(
            path, icc_profile=profile, **options.get(ending, {})
        )
        with Image.open(path) as image:
            stored = np.asarray(image.convert("RGB")) / 255
        linear = icc.to_linear(stored) if gamma is None else stored**gamma
        wanted = in_srgb(colorants, linear)
        assert np.abs(wanted - 255 * stored).max() > 20
        assert np.abs(shown(path) - wanted).max() < 2


def with_profile(jp2, profile, method, place=b""):
    """A JPEG 2000 file whose colours are specified by a profile; `place`: a box before that."""
    at = jp2.index(b"jp2h") - 4
    end = at + struct.unpack_from(">I", jp2, at)[0]
    color = jp2.index(b"colr", at) - 4
    after = color + struct.unpack_from(">I", jp2, color)[0]
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", method, 0, 0) + profile
    header = place + jp2[at + 8 : color] + box + jp2[after:end]
    return jp2[:at] + struct.pack(">I4sQ", 1, b"jp2h", 16 + len(header)) + header + jp2[end:]


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow does not read JPEG 2000")
def test_jpeg_2000(tmp_path):
    """Pillow leaves the profile where it is; lossless, so the picture is that of a PNG with it."""
    profile = icc.rgb_profile(icc.DISPLAY_P3)
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile)
    Image.fromarray(PIXELS).save(tmp_path / "a.jp2")
    plain, wanted, whole = load_image(tmp_path / "a.jp2"), load_image(tmp_path / "a.png"), tmp_path / "b.jp2"
    jp2 = (tmp_path / "a.jp2").read_bytes()
    for method in (2, 3):
        whole.write_bytes(with_profile(jp2, profile, method, struct.pack(">I4s", 12, b"free") + b"free"))
        assert torch.equal(load_image(whole), wanted) and not torch.equal(wanted, plain)
    whole.write_bytes(with_profile(jp2, b"no profile", 2))
    with pytest.warns(UserWarning, match=r"colour profile in .*b\.jp2' cannot be used .*taken for sRGB"):
        assert torch.equal(load_image(whole), plain)


def test_transparency_stays_beside_the_colors(tmp_path):
    alpha = np.arange(54, dtype=np.uint8).reshape(6, 9, 1) * 4
    alpha[0, 0] = 255
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([PIXELS, alpha])).save(path, icc_profile=icc.rgb_profile(icc.ADOBE_RGB, 563 / 256))
    wanted = in_srgb(icc.ADOBE_RGB, (PIXELS / 255) ** (563 / 256))
    rgba = load_rgba(path, 100).permute(1, 2, 0).numpy() * 255
    assert np.abs(rgba[..., 3:] - alpha).max() < 1e-3
    assert np.abs(rgba[..., :3] - wanted * alpha / 255).max() < 2
    assert np.abs(shown(path) - (wanted * alpha + 255.0 * (255 - alpha)) / 255).max() < 2


def test_grey_and_palette(tmp_path):
    grey = Image.fromarray(PIXELS[..., 0])
    wanted = 255 * icc.from_linear((PIXELS[..., 0] / 255) ** 1.8)
    for image in (grey, Image.merge("LA", [grey, Image.new("L", grey.size, 255)])):
        image.save(tmp_path / "a.png", icc_profile=icc.grey_profile(1.8))
        assert np.abs(shown(tmp_path / "a.png") - wanted[..., None]).max() < 2
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png", icc_profile=icc.grey_profile(1.8))
    assert np.abs(shown(tmp_path / "deep.png") - wanted[..., None]).max() < 2
    # A grey picture in a profile of colours is one of its greys.
    grey.save(tmp_path / "b.png", icc_profile=icc.rgb_profile(icc.ADOBE_RGB, 1.8))
    assert np.abs(shown(tmp_path / "b.png") - wanted[..., None]).max() < 2
    palette = Image.fromarray(PIXELS).quantize(16)
    colors = np.asarray(palette.convert("RGB")) / 255
    palette.save(tmp_path / "p.png", icc_profile=icc.rgb_profile(icc.DISPLAY_P3))
    assert np.abs(shown(tmp_path / "p.png") - in_srgb(icc.DISPLAY_P3, icc.to_linear(colors))).max() < 2


@pytest.mark.parametrize("ending", ["tiff", "jpg"])
def test_cmyk(tmp_path, ending):
    """Paper is white, and cyan is what the profile says: Lab 60, -35, -45 (worst seen 0.5 levels)."""

    def lab(c, m, y, k):
        return (0, 0, 0) if k else (60, -35, -45) if (c, m, y) == (1, 0, 0) else (100 - 25 * (c + m + y), 0, 0)

    path = tmp_path / f"a.{ending}"
    for ink, wanted in (((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), _of_lab(60, -35, -45)), ((0, 0, 0, 255), 0)):
        Image.new("CMYK", (16, 16), ink).save(path, icc_profile=icc.cmyk_profile(lab), quality=100)
        assert np.abs(shown(path)[8, 8] - wanted).max() < 2


def _of_lab(light, a, b):
    f = np.array([(light + 16) / 116 + a / 500, (light + 16) / 116, (light + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * icc.D50
    return 255 * icc.from_linear(np.linalg.inv(icc.SRGB) @ xyz)


def test_the_profile_of_srgb_changes_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in (Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., 0])):
            image.save(tmp_path / "a.png", icc_profile=icc.rgb_profile(icc.SRGB))
            image.save(tmp_path / "b.png")
            assert torch.equal(load_image(tmp_path / "a.png"), load_image(tmp_path / "b.png"))


def test_a_large_profile(tmp_path):
    """2 MB of it, which Pillow takes for a bomb in a PNG."""
    profile = icc.rgb_profile(icc.DISPLAY_P3, padding=2**21)
    wanted = in_srgb(icc.DISPLAY_P3, icc.to_linear(PIXELS / 255))
    for ending in ("png", "tiff", "webp"):
        Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}", icc_profile=profile, lossless=True)
        assert np.abs(shown(tmp_path / f"a.{ending}") - wanted).max() < 2


@pytest.mark.parametrize("kind", ["noise", "cut", "empty tags", "cmyk", "grey"])
def test_a_profile_that_cannot_be_used(tmp_path, kind):
    whole = icc.rgb_profile(icc.DISPLAY_P3)
    profile = {
        "noise": b"no profile at all" * 9,
        "cut": whole[:200],
        "empty tags": whole[:128] + bytes(4) + whole[132:],
        "cmyk": icc.cmyk_profile(lambda c, m, y, k: (50, 0, 0)),
        "grey": icc.grey_profile(1.8),
    }[kind]
    for ending in ("png", "jpg", "tiff"):
        Image.fromarray(PIXELS).save(tmp_path / f"a.{ending}", icc_profile=profile)
        with pytest.warns(
            UserWarning, match=rf"colour profile in .*a\.{ending}' cannot be used .*taken for sRGB"
        ) as seen:
            found = shown(tmp_path / f"a.{ending}")
        assert len(seen) == 1
        with Image.open(tmp_path / f"a.{ending}") as image:
            assert np.abs(found - np.asarray(image)).max() < 1e-3


def test_lab(tmp_path):
    Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (153, 128 - 35, 128 - 45)]).save(tmp_path / "a.tiff")
    assert np.abs(shown(tmp_path / "a.tiff")[0, 0] - _of_lab(60, -35, -45)).max() < 2
