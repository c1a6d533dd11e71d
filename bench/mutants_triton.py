"""Do the tests of the Triton kernels notice a mistake? Plants mistakes in them, one at a time, and runs them.

python -m bench.mutants_triton        about ten minutes; writes bench/results/mutants_triton.json

The kernels run in Triton's interpreter: what only the compiled kernels do (inline PTX) is out of its sight.
"""

from bench.mutants import hunt

FORWARD, BACKWARD, HOST, PHILOX = "step_fwd_triton.py", "step_bwd_triton.py", "rollout_triton.py", "philox_triton.py"
PERCEPTION, LAYERS, PACKING = "perception_triton.py", "layers_triton.py", "packing_triton.py"
MATRICES = "matrices_triton.py"

# (file, what stands there, what is put there)
MUTANTS = [
    (PHILOX, "high1 ^ c1 ^ k0", "high1 ^ k0"),
    (PHILOX, "k1 + 0xBB67AE85", "k1"),
    (PHILOX, "i // H % B", "i // H"),
    (PHILOX, "(step + first_step)", "(step)"),
    (PHILOX, "z ^= k1\n    return", "return"),
    (PHILOX, "z <= (below - 1)", "z < (below - 1)"),
    (PHILOX, " & (below > 0)", ""),
    (PERCEPTION, "row = tl.where(row >= H, row - H, row)\n", ""),
    (PERCEPTION, "return tl.minimum(tl.maximum(row, 0), H - 1)", "return row"),
    (PERCEPTION, "c - a, b)\n", "a - c, b)\n"),
    (PERCEPTION, "mask=both(left_there, inside)", "mask=both(there, inside)"),
    (PERCEPTION, "mask=both(right_there, inside)", "mask=both(there, inside)"),
    (PERCEPTION, "(cell * C + (C - 4))", "(cell * C)"),
    (PERCEPTION, "return row + at[0] + 8 * k", "return row + at[0]"),
    (PERCEPTION, "y = y + (tl.full(here[3 * k].shape, 1.0, DOT),)", "y = y + (tl.full(here[3 * k].shape, 0.0, DOT),)"),
    (MATRICES, "spare = tl.full((BW, 4 * FP), 1.0, DOT)", "spare = tl.full((BW, 4 * FP), 0.0, DOT)"),
    (MATRICES, "spare = tl.where(mask[:, None], spare, tl.zeros_like(spare))", "spare = spare"),
    (MATRICES, "return tl.where(mask, a.to(tl.float32), 0.0).to(DOT)", "return a"),
    (LAYERS, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "tl.maximum(a, 0.0)"),
    (LAYERS, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "a"),
    (LAYERS, "a += b[j]", "a += b[0]"),
    (FORWARD, "(cell + origin_column)", "(cell)"),
    (FORWARD, "written = (i < W)[:, None]", "written = there"),
    (FORWARD, "weights += sample.to(tl.int64) * weights_stride", "weights += 0"),
    (BACKWARD, "on_canvas & (lane >= HALO) & (lane < BW - HALO)", "on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = m & on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = both(m, (row >= 0) & (row < H))"),
    (BACKWARD, "both(own, (row >= first) & (row < end))", "own"),
    (LAYERS, "tl.where(h.to(tl.float32) > 0, grad, 0.0)", "grad"),
    (BACKWARD, "moved_in(p + t, p - t)", "moved_in(p - t, p + t)"),
    (BACKWARD, "sums = sums + (begun[3 * k + 2] + g,)", "sums = sums + (begun[3 * k + 2],)"),
    (BACKWARD, "own_y = matrices(seen, mine, True, DOT, PRODUCT)", "own_y = y"),
    (BACKWARD, "own_grad_u = output_matrix(fired, mine, True, COLUMNS, DOT, PRODUCT)", "own_grad_u = grad_u"),
    (LAYERS, "tl.store(at, tl.load(at) + scale * tiles", "tl.store(at, scale * tiles"),
    (BACKWARD, "(a * down)", "a"),
    (BACKWARD, "add_layer(partial, grad_w1, down,", "add_layer(partial, grad_w1, 1.0,"),
    (BACKWARD, "biases += sample.to(tl.int64) * biases_stride", "biases += 0"),
    (BACKWARD, "sample * (tl.cdiv(W, BW - 2) * bands)", "sample"),
    (HOST, "first_step + j * every + n", "first_step + n"),
    (HOST, "start = step // steps * steps", "start = 0"),
    (HOST, "(every - 1 - n) % 2", "n % 2"),
    (PACKING, "packed[..., first_bias + 1] = bias - high", "packed[..., first_bias + 1] = 0"),
    (PACKING, "channels = frozen + torch.arange(written)", "channels = torch.arange(written)"),
    (PACKING, "distinct.index(stencil) for stencil in stencils", "i for i, _ in enumerate(stencils)"),
]


if __name__ == "__main__":
    hunt(MUTANTS, ["tests/test_triton.py", "-k", "not compiled"], "mutants_triton.json")
