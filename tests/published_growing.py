"""Growing automata of many hands.

Each is written from its authors' formulas; sizes are small, and clamps and blurs small enough to bite.
"""

import math

import torch
import torch.nn.functional as F
from published import GROWING, TEXTURE, System, depthwise, depthwise_kernels, filterwise, network, one, pool
from torch import nn

import nca_fast
from nca_fast import Rule


class StudyingGrowth(System):
    """Greydanus 2021: every channel fires for itself; the seed's alpha is pinned; all states."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.rule = Rule(
            C,
            (self.width,),
            ("identity", "sobel_x/8", "sobel_y/8"),
            0.8,
            padding="zero",
            alive_channel=3,
            output_bias=True,
            fire_shared=(),
        )

    def pinned(self, x):
        pin = torch.zeros(x.shape[1:], dtype=torch.bool)
        pin[3, 4, 5] = True
        return torch.where(pin, 1.0, x)

    def theirs(self, x, draws):
        states = []
        for n in range(self.steps):
            before = pool(x[:, 3:4])
            x = x + draws.mask(n) * self.w2(F.relu(self.w1(depthwise(x, GROWING, "zero"))))
            x = self.pinned(x * before * pool(x[:, 3:4]))
            states.append(x)
        return torch.stack(states)

    def ours(self, x):
        w, b = one(self.w1)
        weights = [(filterwise(w, 3), b), one(self.w2)]
        return self.roll(x, weights, at=range(1, self.steps + 1), after=lambda x, new, n: self.pinned(new))


class GoalGuided(System):
    """Sudhakaran et al. 2022: sees the state plus a goal where alive; alive before and after; clamp."""

    def __init__(self, C=8, hidden=16, bound=0.6):
        super().__init__()
        self.C, self.bound = C, bound
        self.perceive = nn.Conv2d(C, 3 * C, 3, padding=1, groups=C, bias=False)
        self.w = network(3 * C, hidden, hidden, C, last_bias=False)
        self.goal = nn.Parameter(torch.randn(3, C) * 0.3)
        living = {"alive_channel": C + 3, "clamp": (-bound, bound)}
        self.rule = Rule(2 * C, (hidden, hidden), (), padding="zero", frozen=C, learned_filters=3, **living)

    def theirs(self, x, draws):
        for n in range(self.steps):
            before = pool(x[:, 3:4])
            seen = self.perceive(x + self.goal[:, :, None, None] * before)
            x = x + draws.mask(n) * self.w[2](F.relu(self.w[1](F.relu(self.w[0](seen)))))
            x = x * (before & pool(x[:, 3:4])).to(x)
            x = x.clamp(-self.bound, self.bound)  # theirs: 10
        return x

    def draws(self, x):
        return super().draws(x.repeat(1, 2, 1, 1))

    def ours(self, x):
        C, (w, b), *rest = self.C, *map(one, self.w)
        seen, over = depthwise_kernels(self.perceive.weight, C), filterwise(w, 3).unflatten(1, (3, C))

        def aim(x, new, n, goal):
            return torch.cat([goal[:, :, None, None] * nca_fast.alive(new, self.rule), new[:, C:]], 1)

        start, weights = (
            aim(None, torch.cat([x, x], 1), -1, self.goal),
            [(torch.cat([seen, seen], 1), None), (torch.cat([over, over], 2).flatten(1), b), *rest],
        )
        return self.roll(start, weights, after=aim, after_inputs=[self.goal])[:, C:]


class EngramNCA(System):
    """Guichard et al. 2025: two automata take turns, one writes the genes, one everything else."""

    steps = 6  # two of ours are one of theirs

    def __init__(self, C=8, hidden=(20, 12), genes=3):
        super().__init__()
        self.genes, self.hidden = genes, hidden
        self.a = network(4 * C, hidden[0], C - genes, last_bias=False)
        self.b = network(4 * C, hidden[1], genes, last_bias=False)
        self.rule = Rule(C, (hidden[0],), alive_channel=3, alive_mask="update")

    def theirs(self, x, draws):
        g = self.genes
        for n in range(0, self.steps, 2):
            y = torch.cat([x, depthwise(x, TEXTURE[1:], "circular")], 1)
            u = self.a[1](F.relu(self.a[0](y)))
            x = torch.cat([x[:, :-g] + u * draws.mask(n) * pool(x[:, 3:4], True), x[:, -g:]], 1)
            y = torch.cat([x, depthwise(x, TEXTURE[1:], "circular")], 1)
            u = self.b[1](F.relu(self.b[0](y)))
            x = torch.cat([x[:, :-g], x[:, -g:] + u * draws.mask(n + 1) * pool(x[:, 3:4], True)], 1)
        return x

    def ours(self, x):
        C, g, W1, b1, most = x.shape[1], self.genes, [], [], self.hidden[0]
        for w, b in (one(self.a[0]), one(self.b[0])):
            w = torch.cat([w[:, :C], filterwise(w[:, C:], 3)], 1)
            W1.append(F.pad(w, [0, 0, 0, most - len(w)])), b1.append(F.pad(b, [0, most - len(b)]))
        genes = F.pad(one(self.b[1])[0], [0, most - self.hidden[1], C - g, 0])
        W2 = torch.stack([F.pad(one(self.a[1])[0], [0, 0, 0, g]), genes])
        return self.roll(x, [(torch.stack(W1)[:, None], torch.stack(b1)[:, None]), (W2[:, None], None)])


class MotionNCA(System):
    """simonerufo: the goal is added to the state where alive; alive after; clamp."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.goal = nn.Parameter(torch.randn(3, C) * 0.1 * (torch.arange(C) > 3))
        self.rule = Rule(
            C,
            (self.width,),
            ("identity", "sobel_x/8", "sobel_y/8"),
            padding="zero",
            alive_channel=3,
            alive_mask="after",
            output_bias=True,
            clamp=(-0.5, 0.5),
        )

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + self.goal[:, :, None, None] * pool(x[:, 3:4])
            x = x + self.w2(F.relu(self.w1(depthwise(x, GROWING, "zero")))) * draws.mask(n)
            x = (x * pool(x[:, 3:4])).clamp(-0.5, 0.5)  # theirs: 10
        return x

    def ours(self, x):
        w, b = one(self.w1)

        def aim(x, new, n, goal):
            living = nca_fast.alive(new, self.rule).to(new)
            return new if n == self.steps - 1 else torch.addcmul(new, goal[:, :, None, None], living)

        start, weights = aim(None, x, -1, self.goal), [(filterwise(w, 3), b), one(self.w2)]
        return self.roll(start, weights, after=aim, after_inputs=[self.goal])


class BatchNormed(System):
    """AlbertoSinigaglia: leaky units between normalisations by stored statistics: affine maps, folded."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.one, self.two = nn.BatchNorm2d(3 * C, eps=1e-3), nn.BatchNorm2d(self.width, eps=1e-3)
        for norm in (self.one, self.two):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
            norm.running_var.uniform_(0.5, 2), norm.running_mean.normal_()
        self.eval()
        self.rule = Rule(
            C,
            (self.width,),
            ("identity", "sobel_x", "sobel_y"),
            0.8,
            padding="zero",
            alive_channel=3,
            alive_mask="after",
            output_bias=True,
            activation="leaky_relu(0.2)",
        )

    def theirs(self, x, draws):
        for n in range(self.steps):
            y = torch.cat(
                [
                    x,
                    *(
                        F.conv2d(x, f.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
                        for f in TEXTURE[1:3].to(x)
                    ),
                ],
                1,
            )
            u = self.w2(self.two(F.leaky_relu(self.w1(self.one(y)), 0.2)))
            x = x + u * draws.mask(n)
            x = x * pool(x[:, 3:4])
        return x

    def ours(self, x):
        layers = []
        for norm, conv in ((self.one, self.w1), (self.two, self.w2)):
            w, b = one(conv)
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            layers.append((w * gain, b + w @ (norm.bias - norm.running_mean * gain)))
        return self.roll(x, layers)


class ClampedColours(System):
    """vishvak-ravi: tanh on the update, alive before and after, and only the colours are clamped."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.rule = Rule(
            C,
            (self.width,),
            ("identity", "sobel_x", "sobel_y"),
            padding="zero",
            alive_channel=3,
            output_bias=True,
            update_activation="tanh",
        )

    def theirs(self, x, draws):
        for n in range(self.steps):
            before = pool(x[:, 3:4])
            y = depthwise(x, TEXTURE[:3], "zero")
            x = x + torch.tanh(self.w2(F.relu(self.w1(y)))) * draws.mask(n)
            x = x * (before & pool(x[:, 3:4]))
            x = torch.cat([x[:, :3].clamp(0, 1), x[:, 3:]], 1)
        return x

    def ours(self, x):
        (w, b), others = one(self.w1), x.shape[1] - 3
        low, high = x.new_tensor([[0.0] * 3 + [-math.inf] * others, [1.0] * 3 + [math.inf] * others])[:, :, None, None]
        weights = [(filterwise(w, 3), b), one(self.w2)]
        return self.roll(x, weights, after=lambda x, new, n: new.clamp(low, high))


class UniformFactor(System):
    """aitor-perez: a uniform factor for the fire mask; alive after; all clamped to [0, 1] in the end."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.rule = Rule(
            C, (self.width,), ("sobel_x", "sobel_y", "identity"), 1.0, padding="zero", output_bias=True, residual=False
        )
        self.living = Rule(C, alive_channel=3, padding="zero")
        self.factors = torch.rand(self.steps, 3, 1, *self.size)

    def theirs(self, x, draws):
        for n in range(self.steps):
            y = torch.cat(
                [
                    F.conv2d(x, f.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
                    for f in TEXTURE[[1, 2, 0]].to(x)
                ],
                1,
            )
            x = x + self.w2(F.relu(self.w1(y))) * self.factors[n]
            x = (x * pool(x[:, 3:4])).clamp(0, 1)
        return x

    def ours(self, x):
        def tail(x, u, n):
            new = torch.addcmul(x, u, self.factors[n])
            return (new * nca_fast.alive(new, self.living)).clamp(0, 1)

        return self.roll(x, [one(self.w1), one(self.w2)], after=tail)


class TrafficNCA(System):
    """NCA_Prediction (Chen and Wang): after each step a softmax pulls some cells to their targets."""

    steps = 4

    def __init__(self, C=8, alpha=4):
        super().__init__()
        self.alpha = alpha
        self.w1, self.w2 = network(8 * C, 20, C, last_bias=False)
        names = [f"sobel_{a}{k}/8" for k in ("", 5, 7) for a in "yx"]  # theirs swap rows and columns
        self.rule = Rule(C, (20,), ("identity", *names), padding="zero", maximum_window=5, alive_channel=alpha)
        self.valid = (torch.rand(3, 1, *self.size) < 0.8).to(torch.float64)
        self.pull = (torch.rand(3, 1, *self.size) < 0.4).to(torch.float64)
        self.target = torch.rand(3, alpha, *self.size)

    def calibrated(self, x):
        a = self.alpha
        delta = self.target * (torch.softmax(x[:, :a], 1) - 1) * self.pull
        return torch.cat(
            [x[:, :a] - delta, x[:, a : a + 1] - 2 * (x[:, a : a + 1] - self.valid) * self.pull, x[:, a + 1 :]], 1
        )

    def start(self, x):
        return x + 0.01 * torch.rand(x.shape)  # of equal maxima theirs, rows and columns swapped, takes another one

    def theirs(self, x, draws):
        C, a = x.shape[1], self.alpha
        for n in range(self.steps):
            z = x.transpose(2, 3)
            before, seen = pool(z[:, a : a + 1]), [z]
            for k in (3, 5, 7):
                i = torch.arange(k) - k // 2
                g = i[None] / (i[None] ** 2 + i[:, None] ** 2).clamp(min=1)
                g = g / g.abs().sum()
                seen += [F.conv2d(z, f.expand(C, 1, k, k), padding=k // 2, groups=C) for f in (g, g.T)]
            seen.append(F.max_pool2d(z, 5, 1, 2))
            z = z + self.w2(F.relu(self.w1(torch.cat(seen, 1)))) * draws.mask(n).transpose(2, 3)
            z = z * (before & pool(z[:, a : a + 1]))
            x = self.calibrated(z.transpose(2, 3) * self.valid)
        return x

    def ours(self, x):
        a, valid, pulled = self.alpha, self.valid, self.target * self.pull
        keeps = torch.cat([valid.expand(-1, a, -1, -1), valid * (1 - 2 * self.pull), valid.expand_as(x[:, a + 1 :])], 1)
        gets = torch.cat([pulled, 2 * valid * self.pull, torch.zeros_like(x[:, a + 1 :])], 1)

        def calibrated(x, new, n):  # `theirs`, which is linear but for the softmax
            soft, rest = torch.softmax(new[:, :a] * valid, 1), torch.addcmul(gets, new, keeps)
            return torch.cat([torch.addcmul(rest[:, :a], soft, pulled, value=-1), rest[:, a:]], 1)

        return self.roll(x, [one(self.w1), one(self.w2)], after=calibrated)


class SelfReplication(System):
    """LanaSina: a torus by a ring of one cell, which each step updates with zeros around it, and then writes anew."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        filters = ("identity", "sobel_x/8", "sobel_y/8")
        self.rule = Rule(C, (self.width,), filters, padding="zero", alive_channel=3, output_bias=True)

    def start(self, x):
        return x[:, :, 1:-1, 1:-1]

    def ringed(self, x):
        return F.pad(x, [1] * 4, "circular")

    def draws(self, x):
        return super().draws(self.ringed(x))

    def theirs(self, x, draws):
        for n in range(self.steps):
            z = self.ringed(x)
            before = pool(z[:, 3:4])
            z = z + self.w2(F.relu(self.w1(depthwise(z, GROWING, "zero")))) * draws.mask(n)
            x = (z * (before & pool(z[:, 3:4])))[:, :, 1:-1, 1:-1]
        return x

    def ours(self, x):
        w, b = one(self.w1)
        weights = [(filterwise(w, 3), b), one(self.w2)]
        x = self.ringed(x)
        numbers = torch.arange(x.shape[2] * x.shape[3]).view(1, 1, *x.shape[2:])
        places = self.ringed(numbers[:, :, 1:-1, 1:-1]).expand_as(x).flatten(2)  # where what a cell becomes is found

        def ringed(x, new, n):
            return new.flatten(2).gather(2, places).view_as(new)

        return self.roll(x, weights, after=ringed)[:, :, 1:-1, 1:-1]


class Bitcoin(System):
    """tensorway: Dropout2d of the update; alive before, of a sigmoid; the loss sees copies of before the mask."""

    def __init__(self, C=6):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        filters = ("identity", "sobel_x", "sobel_y")
        self.rule = Rule(
            2 * C, (self.width,), filters, padding="zero", frozen=C, output_bias=True, fire_shared=("height", "width")
        )

    def start(self, x):
        return x[:, :6]

    def draws(self, x):
        return super().draws(x.repeat(1, 2, 1, 1))

    def living(self, x):
        return F.max_pool2d(torch.sigmoid(20 * x[:, 3:4] - 8), 3, 1, 1) > 0.1

    def theirs(self, x, draws):
        states = []
        for n in range(self.steps):
            y = torch.cat([F.conv2d(x, f.expand(6, 1, 3, 3), padding=1, groups=6) for f in TEXTURE[:3].to(x)], 1)
            living = self.living(x)
            x = x + self.w2(F.relu(self.w1(y))) * draws.mask(n) / 0.5
            states.append(x)
            x = x * living
        return torch.stack(states)

    def ours(self, x):
        (w, b), (w2, b2), C = one(self.w1), one(self.w2), x.shape[1]
        W1 = F.pad(w.unflatten(1, (3, C)), [C, 0]).flatten(1)
        living = Rule(2 * C, alive_channel=C + 3, alive_threshold=(8 - math.log(9)) / 20, padding="zero")

        def kept(x, new, n):
            return torch.cat([new[:, C:], new[:, C:] * nca_fast.alive(x, living)], 1)

        weights = [(W1, b), (2 * w2, 2 * b2)]
        return self.roll(x.repeat(1, 2, 1, 1), weights, after=kept, at=range(1, self.steps + 1))[:, :, :C]


class SelfHealing(System):
    """cattolatte: alive where the largest colour, by size, of 3x3 exceeds the threshold; after the update alone."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.rule = Rule(C, (self.width,), ("identity", "sobel_x", "sobel_y"), padding="zero", output_bias=True)

    def masked(self, x):
        return x * pool(x[:, :3].abs().amax(1, keepdim=True))

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + self.w2(F.relu(self.w1(depthwise(x, TEXTURE[:3], "zero")))) * draws.mask(n)
            x = self.masked(x)
        return x

    def ours(self, x):
        w, b = one(self.w1)
        living = Rule(1, alive_channel=0, padding="zero")

        def masked(x, new, n):
            return new * nca_fast.alive(new.detach()[:, :3].abs().amax(1, keepdim=True), living)

        return self.roll(x, [(filterwise(w, 3), b), one(self.w2)], after=masked)
