"""A population of rules in one call: ten automata, each with weights of its own, learn to grow the ten digits.

python examples/population.py [ITERATIONS]        ends with population.png: what was learned, and below it how it grew
"""

import sys

import torch
from sklearn.datasets import load_digits

from nca_fast import Rule, rollout
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.training.descent import normalize_gradients

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 500
digits = torch.from_numpy(load_digits().images[:10]).float()[:, None] / 16
target = torch.nn.functional.interpolate(digits, 16, mode="bilinear", antialias=True)  # [10, 1, 16, 16]
rule = Rule(channels=8, hidden=(48,), filters=("identity", "sobel_x/8", "sobel_y/8"), padding="zero", alive_channel=0)
torch.manual_seed(0)
(hidden, inputs, _), (written, _, _) = rule.layers
w1 = (torch.rand(10, hidden, inputs) * 2 - 1).mul(inputs**-0.5).requires_grad_()  # W [B, out, in], b [B, out] or None
b1, w2 = torch.zeros(10, hidden, requires_grad=True), torch.zeros(10, written, hidden, requires_grad=True)
weights = [(w1, b1), (w2, None)]
cell = torch.zeros(10, rule.channels, 16, 16)
cell.flatten(2)[torch.arange(10), :, target.flatten(1).argmax(1)] = 1  # one lives, where the digit is brightest
optimizer = torch.optim.Adam([w1, b1, w2], lr=4e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
for _ in range(iterations):
    x = rollout(cell, weights, rule, steps=40)  # sample b runs rule b; a population of 64 is one call, too
    (x[:, :1] - target).square().sum().backward()
    normalize_gradients([w1, b1, w2])
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
with torch.no_grad():
    grown = [rollout(cell, weights, rule, steps, seed=0)[:, :1] for steps in (5, 10, 20, 40)]
rows = torch.cat([target, *grown]).expand(-1, 3, -1, -1)
save_image(enlarged(image_grid(list(rows), columns=10), 4), "population.png")
