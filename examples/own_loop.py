"""The layer in a loop of one's own: an automaton learns to grow a ladybird from one cell, and to stay it.

python examples/own_loop.py [ITERATIONS]        ends with own_loop.png: the goal, and 24 to 768 steps
"""

import sys
from pathlib import Path

import torch

from nca_fast import NCA
from nca_fast.media.images import enlarged, image_grid, load_rgba, save_image
from nca_fast.systems.growing import errors, on_white
from nca_fast.training.optimizers import Muon
from nca_fast.training.pool import Pool

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
target = torch.nn.functional.pad(load_rgba(Path(__file__).with_name("ladybird.png"), 24), [5] * 4)  # RGBA, a margin
torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
nca = NCA.preset("growing")
cell = nca.initial_state(1, *target.shape[1:])
pool = Pool(cell.repeat(64, 1, 1, 1))
optimizer = Muon(nca.parameters(), lr=1e-2)
milestones = [iterations * percent // 100 for percent in (40, 65, 80, 90, 95)]
schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
for iteration in range(iterations):
    indices, x = pool.sample(3, generator)
    x[errors(x, target).argmax()] = cell[0]  # the worst begins afresh
    shortest = 32 if iteration < 0.6 * iterations else 64  # short ones cost half; the long ones learn to stay
    x = nca(x, steps=shortest + int(torch.randint(shortest // 2, (), generator=generator)))
    errors(x, target).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    pool.write(indices, x)
with torch.no_grad():
    grown = [nca.to_rgb(nca(cell, steps, seed=0))[0] for steps in (24, 48, 96, 768)]
save_image(enlarged(image_grid([on_white(target), *grown], columns=5), 5), "own_loop.png")
