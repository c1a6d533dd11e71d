"""Automata that look at a picture, a game or their place, which the rule says by frozen channels.

Each is written from its authors' formulas; sizes are small.
"""

import torch
import torch.nn.functional as F
from published import (
    IDENTITY,
    LAPLACIAN,
    SOBEL,
    TEXTURE,
    System,
    depthwise,
    filterwise,
    network,
    one,
    shifts,
)
from torch import nn

from nca_fast import Rule


class DyNCA(System):
    """Pajouheshgar et al. 2023, one scale: replicated edges; the place of a cell beside its perception."""

    def __init__(self, C=8, hidden=24):
        super().__init__()
        self.w1, self.w2 = network(4 * C + 2, hidden, C)
        self.rule = Rule(C + 2, (hidden,), padding="replicate", frozen=2, output_bias=True)

    def place(self, x):
        rows, columns = (2 * ((torch.arange(n) + 0.5) / n - 0.5) for n in x.shape[2:])
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(x).expand(len(x), -1, -1, -1)

    def draws(self, x):
        return super().draws(torch.cat([self.place(x), x], 1))

    def theirs(self, x, draws):
        for n in range(self.steps):
            seen = [F.conv2d(F.pad(x, [1] * 4, "replicate"), f.expand(x.shape[1], 1, 3, 3), groups=x.shape[1])
                    for f in TEXTURE[1:].to(x)]  # fmt: skip
            y = torch.cat([x, *seen, self.place(x)], 1)
            x = x + self.w2(F.relu(self.w1(y))) * draws.mask(n)
        return x

    def ours(self, x):
        w, b = one(self.w1)
        C = x.shape[1]
        body = w[:, : 4 * C].unflatten(1, (4, C))
        place = F.pad(w[:, None, 4 * C :], [0, 0, 0, 3])  # the identity alone looks at it
        W1 = torch.cat([place, body], 2).flatten(1)
        return self.roll(torch.cat([self.place(x), x], 1), [(W1, b), one(self.w2)])[:, 2:]


class GameNCA(System):
    """Whitaker: the game's picture stays in the last channels; a tenth of the tanh of the update."""

    def __init__(self, C=8, hidden=24, seen=3):
        super().__init__()
        self.seen = seen
        self.w1, self.w2 = network(4 * C, hidden, C - seen, last_bias=False)
        filters = ("identity", "sobel_x/8", "sobel_y/8", "laplacian/16")
        self.rule = Rule(C, (hidden,), filters, frozen=seen, update_activation="tanh/10")

    def theirs(self, x, draws):
        picture, state = x[:, : self.seen], x[:, self.seen :]
        kernels = torch.stack([IDENTITY, SOBEL / 8, SOBEL.T / 8, LAPLACIAN / 16])
        for n in range(self.steps):
            y = depthwise(torch.cat([state, picture], 1), kernels, "circular")
            state = state + 0.1 * torch.tanh(self.w2(F.relu(self.w1(y)))) * draws.mask(n)
        return torch.cat([picture, state], 1)

    def ours(self, x):
        w, b = one(self.w1)
        w = w.unflatten(1, (-1, 4))
        w = torch.cat([w[:, -self.seen :], w[:, : -self.seen]], 1).flatten(1)  # theirs have the picture last
        return self.roll(x, [(filterwise(w, 4), b), one(self.w2)])


class Resilience(System):
    """marrlab: two learned filters for each channel, with biases; reflected edges; the picture is put back."""

    def __init__(self, C=8, hidden=24):
        super().__init__()
        self.p0, self.p1 = (nn.Conv2d(C, C, 3, padding=1, groups=C, padding_mode="reflect") for _ in "ab")
        self.fc0, self.fc1 = nn.Linear(3 * C, hidden), nn.Linear(hidden, C, bias=False)
        self.rule = Rule(C, (hidden,), ("identity",), padding="reflect", frozen=3, learned_filters=2)

    def theirs(self, x, draws):
        picture = x[:, :3]
        for n in range(self.steps):
            y = torch.cat([x, self.p0(x), self.p1(x)], 1).permute(0, 2, 3, 1)
            x = x + self.fc1(F.relu(self.fc0(y))).permute(0, 3, 1, 2) * draws.mask(n)
            x = torch.cat([picture, x[:, 3:]], 1)
        return x

    def ours(self, x):
        C, w = x.shape[1], self.fc0.weight
        seen = torch.stack([self.p0.weight, self.p1.weight])[:, :, 0]
        bias = self.fc0.bias + w[:, C:] @ torch.cat([self.p0.bias, self.p1.bias])
        return self.roll(x, [(seen, None), (w, bias), (self.fc1.weight[3:], None)])


class SelfClassifyingMNIST(System):
    """Randazzo et al. 2020: the digit's ink is frozen, decides who fires, and noise is added to the update."""

    def __init__(self, C=8, hidden=(12, 10)):
        super().__init__()
        self.conv, (self.d1, self.d2) = nn.Conv2d(C, hidden[0], 3, padding=1), network(*hidden, C - 1)
        self.rule = Rule(C, hidden, shifts(3), padding="zero", frozen=1, output_bias=True, update_noise=0.02)

    def theirs(self, x, draws):
        ink, state = x[:, :1], x[:, 1:]
        for n in range(self.steps):
            u = self.d2(F.relu(self.d1(F.relu(self.conv(torch.cat([ink, state], 1))))))
            u = u + 0.02 * draws.normal(n, True).to(u)
            state = state + u * (draws.mask(n) & (ink > 0.1))
        return torch.cat([ink, state], 1)

    def ours(self, x):
        first = self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias
        ink = 0.5 * (x.detach()[None, :, :1] > 0.1)
        return self.roll(x, [first, one(self.d1), one(self.d2)], fire_rate=ink)
