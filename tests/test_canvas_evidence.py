"""The windows of bench.canvas see a wrong seam."""

import torch

import nca_fast
from bench.canvas import SEED, window_is_right
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene


def test_the_evidence_would_see_a_wrong_seam():
    nca = nca_fast.NCA(nca_fast.Rule(channels=6, hidden=(8,)), init_gain=0.3)
    with torch.no_grad():
        nca.layers[1].weight.normal_(0, 0.1)
    with Canvas(Scene(nca, 200, 210, 2, seed=SEED), plan=Plan(50, 1, 1, True, False)) as canvas:
        canvas.go()
        places = [(0, 60), (50, 105), (150, 150)]
        assert all(window_is_right(canvas, *place) for place in places)
        row = canvas.rows(49, 1)
        row[2, 0, 105] += 1e-6
        canvas.band.write(49, row)
        assert [window_is_right(canvas, *place) for place in places] == [True, False, True]
