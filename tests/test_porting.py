"""The page on porting: its blocks run, and do what its words say; it names every preset and converter."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F

from nca_fast import convert, fire_mask
from nca_fast.presets import PRESETS

PAGE = (Path(__file__).parents[1] / "examples" / "porting.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
LAPLACIAN = torch.tensor([[1.0, 2, 1], [2, -12, 2], [1, 2, 1]])


def ran(block):
    names = {}
    exec(compile(BLOCKS[block], "porting.md", "exec"), names)
    return names


def masks(x):
    return [fire_mask(0, n, len(x), *x.shape[2:], 0.5).to(x) for n in range(8)]


def seen(x, kernels, mode):
    """Filters of every channel, filter by filter."""
    x = F.pad(x, [1] * 4, mode)
    return [F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]) for kernel in kernels]


def close(found, wanted, start):
    # float32 sums in another order, over eight steps; worst seen 2e-7
    assert (wanted - start).norm() > 1e-2 * start.norm()
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_the_growing_automaton():
    names = ran(0)
    z, theirs = names["x"].transpose(1, 3), names["theirs"]
    for mask in masks(names["x"].permute(0, 3, 1, 2)):
        before = F.max_pool2d(z[:, 3:4], 3, 1, 1) > 0.1
        y = torch.cat([z, *seen(z, (SOBEL / 8, SOBEL.T / 8), "constant")], 1).transpose(1, 3)
        z = z + (theirs["fc1"](F.relu(theirs["fc0"](y))) * mask.permute(0, 2, 3, 1)).transpose(1, 3)
        z = z * (before & (F.max_pool2d(z[:, 3:4], 3, 1, 1) > 0.1))
    close(names["y"], z.transpose(1, 3), names["x"])


def test_the_one_by_hand():
    names = ran(1)
    x = z = names["x"]
    for mask in masks(x):
        y = torch.stack([z, *seen(z, (SOBEL / 8, SOBEL.T / 8, LAPLACIAN / 16), "replicate")], 2).flatten(1, 2)
        z = (z + torch.tanh(names["w2"](F.relu(names["w1"](y)))) / 5 * mask).clamp(-1, 1)
    close(names["y"], z, x)
    assert all(part.grad.norm() > 0 for name in ("w1", "w2") for part in names[name].parameters())


def test_the_sensors():
    names = ran(2)
    x = z = names["x"]
    (w1, b1), (w2, _) = names["nca"].weights
    for mask in masks(x):
        y = torch.cat([z, *seen(z, (SOBEL, SOBEL.T, LAPLACIAN), "constant")], 1)
        z = z + F.conv2d(F.relu(F.conv2d(y, w1[:, :, None, None], b1)), w2[:, :, None, None]) * mask
        z = torch.where(names["where"], names["sensors"], z)
    close(names["y"], z, x)
    assert names["sensors"].grad.norm() > 0


def test_it_names_all_that_is_there():
    said = set(re.findall(r"`([\w-]+)`", PAGE))
    assert set(PRESETS) <= said
    assert {name for name in vars(convert) if name.startswith("from_")} <= said


def test_its_counts_add_up():
    """68 in one call are those in the kernel and those with `after`; with those that are not they are all."""
    rows = re.findall(r"^\| .*? \| (\d+)(?: \((\d+) %\))? \| (\d+)(?: \((\d+) %\))? \|$", PAGE, re.MULTILINE)
    counts = [tuple(int(number) if number else None for number in row) for row in rows]
    one, kernel, after, none = counts
    for n, all_rows in ((0, 82), (2, 55)):
        assert one[n] == kernel[n] + after[n] and one[n] + none[n] == all_rows
        assert all(round(100 * row[n] / all_rows) == row[n + 1] for row in (one, kernel, after))
