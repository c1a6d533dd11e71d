"""Do the tests of the Triton kernels notice a mistake? Plants mistakes in them, one at a time, and runs them.

python -m bench.mutants_triton        about ten minutes; writes bench/results/mutants_triton.json

The kernels run in Triton's interpreter: what only the compiled kernels do (inline PTX) is out of its sight.
"""

from bench.mutants import hunt

FORWARD, BACKWARD, HOST, PHILOX = "step_fwd_triton.py", "step_bwd_triton.py", "rollout_triton.py", "philox_triton.py"

# (file, what stands there, what is put there)
MUTANTS = [
    (PHILOX, "high1 ^ c1 ^ k0", "high1 ^ k0"),
    (PHILOX, "k1 + 0xBB67AE85", "k1"),
    (PHILOX, "i // H % B", "i // H"),
    (PHILOX, "(step + first_step)", "(step)"),
    (PHILOX, "z ^= k1\n", ""),
    (PHILOX, "z.to(tl.int64) < below", "z.to(tl.int64) <= below"),
    (FORWARD, "row = tl.where(row >= H, row - H, row)\n", ""),
    (FORWARD, "return tl.minimum(tl.maximum(row, 0), H - 1)", "return row"),
    (FORWARD, "c - a, b\n", "a - c, b\n"),
    (FORWARD, "mask=both(left_there, inside)", "mask=both(there, inside)"),
    (FORWARD, "mask=there, other=1.0", "mask=there, other=0.0"),
    (FORWARD, "tl.where(there, 0.0, 1.0)", "tl.where(there, 0.0, 0.0)"),
    (FORWARD, "tl.full((BW, CP), 1.0, DOT)", "tl.full((BW, CP), 0.0, DOT)"),
    (FORWARD, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "tl.maximum(a, 0.0)"),
    (FORWARD, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "a"),
    (FORWARD, "a += b[j // IN]", "a += b[0]"),
    (FORWARD, "(cell + origin_column)", "(cell)"),
    (FORWARD, "there & (i < W)[:, None]", "there"),
    (BACKWARD, "on_canvas & (lane > 0) & (lane < BW - 1)", "on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = m & on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = both(m, (row >= 0) & (row < H))"),
    (BACKWARD, "both(own, (row >= first) & (row < end))", "own"),
    (BACKWARD, "tl.where(h[j].to(tl.float32) > 0, grads[j], 0.0)", "grads[j]"),
    (BACKWARD, "tl.gather(p + t, to_right, 0)", "tl.gather(p - t, to_right, 0)"),
    (BACKWARD, "add_through_filters(z1 + g,", "add_through_filters(z1,"),
    (BACKWARD, "kept(y, mine, DOT, PRODUCT)", "y"),
    (BACKWARD, "grad_h = kept(grad_h, mine, DOT, PRODUCT)\n", ""),
    (
        BACKWARD,
        "scaled(load_layer(partial, K, INPUTS, HIDDEN1), up)",
        "scaled(load_layer(partial, K, INPUTS, HIDDEN1), 0)",
    ),
    (BACKWARD, "PRODUCT)[0] * down, CP, FP)", "PRODUCT)[0], CP, FP)"),
    (BACKWARD, "store_layer(partial, grad_w1, down,", "store_layer(partial, grad_w1, 1.0,"),
    (HOST, "first_step + j * every + n", "first_step + n"),
    (HOST, "start = step // steps * steps", "start = 0"),
    (HOST, "packed[first_bias + 1] = bias - high", "packed[first_bias + 1] = 0"),
    (HOST, "(every - 1 - n) % 2", "n % 2"),
    (HOST, "channels = frozen + torch.arange(written)", "channels = torch.arange(written)"),
]


if __name__ == "__main__":
    hunt(MUTANTS, ["tests/test_triton.py", "-k", "not compiled"], "mutants_triton.json")
