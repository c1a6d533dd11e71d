"""Which texture grows where on a canvas, for automata that know several: the codes of its cells, row by row.

A map of colours is stretched over the canvas, each cell taking the pixel that it lies in. Where borders are to be soft,
the shares of the textures are averaged over a square of cells: counts, which are exact, so that rows have the same bits
whatever strips they are computed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from PIL import ImageColor
from torch import Tensor

from nca_fast.textures import Codes, all_codes, parse_shares, tiling


@dataclass(frozen=True, eq=False)
class Paint:
    """A map of what grows where.

    Args:
        labels: Number of what is there, for every pixel of a picture of any size. Integers [h, w]
        codes: Of all that is named, [places in time, n, channels]: a film goes from the first place to the last.
        height, width: Of the canvas, in cells.
        soft: Width of the borders in cells; 0: none.
        circular: Whether opposite edges are neighbours.
        said: How the map was understood, in a line; empty where nothing was open.
    """

    labels: Tensor
    codes: Tensor
    height: int
    width: int
    soft: int = 0
    circular: bool = True
    said: str = ""

    @property
    def moves(self) -> bool:
        """Whether there is more than one place in time."""
        return len(self.codes) > 1

    def shares(self, rows: Tensor, left: int = 0, width: int | None = None) -> Tensor:
        """Computes how much of each there is.

        Args:
            rows: Numbers of rows of the canvas. int64
            left, width: First column, and how many; None: all.

        Returns:
            [n, len(rows), width]; its sum over n is 1 everywhere.
        """
        breaks = (rows.diff() != 1).nonzero().flatten() + 1
        if len(breaks):
            return torch.cat([self.shares(part, left, width) for part in rows.tensor_split(breaks)], 1)
        columns = left + torch.arange(self.width if width is None else width)
        half = self.soft // 2
        ends = torch.arange(-half, half + 1)
        lines = self._label(
            rows[0] + torch.arange(-half, len(rows) + half), columns[0] + torch.arange(-half, len(columns) + half)
        )
        shares = []
        for number in range(self.codes.shape[1]):
            here = (lines == number).float()  # counts, exact in any order
            if half:
                here = _summed(_summed(here, len(ends), self.soft % 2 == 0, 0), len(ends), self.soft % 2 == 0, 1)
                here = here / self.soft**2
            shares.append(here)
        return torch.stack(shares)

    def rows(self, rows: Tensor, left: int = 0, width: int | None = None, at: float = 0.0) -> Tensor:
        """Computes the codes of cells; arguments as `shares`.

        Args:
            at: Place in time, from 0 to `len(codes) - 1`; between two of them their codes are mixed.

        Returns:
            [channels, len(rows), width]
        """
        first = min(int(at), len(self.codes) - 1)
        codes = torch.lerp(self.codes[first], self.codes[min(first + 1, len(self.codes) - 1)], at - first)
        shares = self.shares(rows, left, width)
        total = torch.zeros(codes.shape[1], *shares.shape[1:])
        for share, code in zip(shares, codes, strict=True):  # in a fixed order
            total += share * code[:, None, None]
        return total

    def at(self, share: float) -> float:
        """The place in time after this share of a film's steps: it stays at each place as long as it takes to the next.

        With k + 1 places there are k + 1 stays and k ways between them, all of equal length.
        """
        ways = len(self.codes) - 1
        leg, passed = divmod(share * (2 * ways + 1), 2)
        return min(float(ways), leg + max(0.0, passed - 1.0))

    def _label(self, rows: Tensor, columns: Tensor) -> Tensor:
        height, width = self.labels.shape
        places = []
        for cells, length, pixels in ((rows, self.height, height), (columns, self.width, width)):
            cells = cells % length if self.circular else cells.clamp(0, length - 1)
            places.append(((cells.double() + 0.5) * (pixels / length)).long().clamp(max=pixels - 1))
        return self.labels[places[0][:, None], places[1]]


def _summed(values: Tensor, count: int, halved: bool, axis: int) -> Tensor:
    """Sums `count` neighbours along an axis; the outermost count half where `halved`. It gets shorter by count - 1."""
    sums = values.cumsum(axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    length = values.shape[axis] - count + 1
    total = sums.narrow(axis, count, length) - sums.narrow(axis, 0, length)
    if halved:
        total = total - (values.narrow(axis, 0, length) + values.narrow(axis, count - 1, length)) / 2
    return total


def beside_each_other(textures: Codes, height: int, width: int) -> Paint:
    """Makes the map of a torus on which all textures have a part, see `textures.tiling`."""
    return Paint(tiling(len(textures)), all_codes(textures)[None], height, width)


def one_after_another(textures: Codes, height: int, width: int) -> Paint:
    """Makes the map of a torus whose only texture becomes the next, until all were there."""
    return Paint(torch.zeros(1, 1, dtype=torch.int64), all_codes(textures)[:, None], height, width)


def parse_legend(text: str | None, textures: Codes) -> dict[tuple[int, ...], dict[str, float]]:
    """Reads what colours mean, "red=brick,#00f=grass:0.7,gravel:0.3": shares of textures by colour; {} for None.

    Raises:
        ValueError: There is no such colour or texture, or a colour is there twice.
    """
    entries: list[list[str]] = []
    for part in text.split(",") if text else []:
        color, equals, name = part.partition("=")
        if equals:
            entries.append([color.strip(), name.strip()])
        elif entries:  # of a blend
            entries[-1][1] += f",{part.strip()}"
        else:
            raise ValueError(f"legend must be COLOUR=TEXTURE,COLOUR=TEXTURE, but begins with {part!r}.")
    legend = {}
    for color, name in entries:
        try:
            key = ImageColor.getrgb(color)[:3]
        except ValueError:
            raise ValueError(
                f"legend must name colours as red, #f00 or #ff0000, but has {color!r}, which is none."
            ) from None
        if key in legend:
            raise ValueError(f"legend must name each colour once, but has {color!r} twice.")
        legend[key] = parse_shares(name, textures)
    return legend


def read_map(
    picture: Tensor, own: Mapping[str, dict[str, float]], legend: Mapping[tuple[int, ...], dict[str, float]]
) -> tuple[Tensor, list[dict[str, float]], str]:
    """Understands a map of colours.

    Args:
        picture: [3, h, w] in [0, 1].
        own: Textures in their order, which the colours of a map without legend mean, from dark to light.
        legend: What colours mean; a pixel takes the nearest. Empty: the map's own colours.

    Returns:
        Number of the entry at every pixel [h, w], the entries' shares, and how it was understood, in a line.

    Raises:
        ValueError: There is no legend, and there are more colours than textures.
    """
    pixels = (picture * 255).round().to(torch.int32)
    if legend:
        keys = torch.tensor(list(legend), dtype=torch.int32)
        labels = torch.zeros_like(pixels[0])
        nearest = torch.full_like(labels, 2**30)
        for number, key in enumerate(keys):
            far = (pixels - key[:, None, None]).square().sum(0, dtype=torch.int32)
            labels[far < nearest] = number
            nearest = torch.minimum(far, nearest)
        return labels, list(legend.values()), ""
    code = (pixels[0] << 16) | (pixels[1] << 8) | pixels[2]
    colors, labels = code.unique(return_inverse=True)
    if len(colors) > len(own):
        raise ValueError(
            f"a map without legend must have at most {len(own)} colours, one for each texture, but has {len(colors)}, "
            f"as blurred edges and JPEG make them: --legend red={next(iter(own))},... lets each pixel take the nearest."
        )
    weight = torch.tensor([299, 587, 114])
    luminance = (torch.stack([colors >> 16, colors >> 8 & 255, colors & 255], 1) * weight).sum(1)
    order = luminance.argsort(stable=True)
    rank = torch.empty(len(order), dtype=torch.int32)
    rank[order] = torch.arange(len(order), dtype=torch.int32)
    names = list(own)[: len(colors)]
    said = ", ".join(f"#{int(colors[o]):06x} is {name}" for o, name in zip(order, names, strict=True))
    return rank[labels], [own[name] for name in names], f"paint, from dark to light: {said} (--legend says otherwise)"
