"""Small colour profiles (ICC, version 2), written from the specification, so that tests need no files of others."""

import struct

import numpy as np

# Colorants adapted to D50, as columns of RGB -> XYZ.
DISPLAY_P3 = [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
ADOBE_RGB = [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
D50 = (0.9642, 1.0, 0.8249)


def to_linear(values):
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_linear(values):
    values = np.clip(values, 0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def rgb_profile(colorants, gamma=None, padding=0):
    """A display's profile; gamma None: the curve of sRGB. `padding`: bytes of a tag that nobody reads, noise."""
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: _xyz(column) for name, column in zip(names, np.transpose(colorants), strict=True)}
    curve = _curve(to_linear(np.arange(1024) / 1023)) if gamma is None else _gamma(gamma)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    if padding:
        tags[b"test"] = b"data\0\0\0\0" + np.random.default_rng(0).bytes(padding)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma):
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile(lab):
    """A printer's profile that mixes the corners of the ink cube. lab: (c, m, y, k) of 0 and 1 -> L, a, b"""
    corners = [lab(*(index >> shift & 1 for shift in (3, 2, 1, 0))) for index in range(16)]
    table = b"".join(bytes([round(light * 2.55), round(a + 128), round(b + 128)]) for light, a, b in corners)
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": head + bytes(range(256)) * 4 + table + bytes(range(256)) * 3})


def _profile(kind, space, connection, tags):
    tags = {b"wtpt": _xyz(D50)} | tags
    at, table, content = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(content), len(data))
        content += data
    size = 128 + len(table) + len(content)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + table + content


def _xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _curve(values):
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + (values * 65535).round().astype(">u2").tobytes()
