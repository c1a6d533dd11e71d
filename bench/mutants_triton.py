"""Do the tests of the Triton kernels notice a mistake? Plants mistakes in them, one at a time, and runs them.

python -m bench.mutants_triton            of the single pass; writes bench/results/mutants_triton.json
python -m bench.mutants_triton memory     of the kernels that keep perception in memory; mutants_triton_memory.json
With --missed only those that the result file has not as caught. Each takes an hour or more.

The kernels run in Triton's interpreter: what only the compiled kernels do (inline PTX) is out of its sight.
"""

from bench.mutants import hunt, parser

FORWARD, BACKWARD, HOST, PHILOX = (
    "triton/single_pass/forward.py",
    "triton/single_pass/backward.py",
    "triton/rollout.py",
    "triton/fire.py",
)
PERCEPTION, LAYERS, PACKING = "triton/single_pass/filters.py", "triton/products.py", "triton/packing.py"
MATRICES = "triton/single_pass/operands.py"

# (file, what stands there, what is put there)
MUTANTS = [
    (PHILOX, "high1 ^ c1 ^ k0", "high1 ^ k0"),
    (PHILOX, "k1 + 0xBB67AE85", "k1"),
    (PHILOX, "i // H % B", "i // H"),
    (PHILOX, "(step + tl.load(place + 2))", "step"),
    (PHILOX, "(below % canvas_height)", "below"),
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
    (BACKWARD, "tl.where((m & mine)[:, None], g, 0.0)", "tl.where(m[:, None], g, 0.0)"),
    (
        BACKWARD,
        "add_channels(to_biases + (UNITS1 + 8 * k), grad_b[k], down)",
        "add_channels(to_biases + UNITS1, grad_b[k], down)",
    ),
    (LAYERS, "tl.arange(0, WIDTH) * (8 // WIDTH)", "tl.arange(0, WIDTH)"),
    (HOST, "keys_of(j * every + n)", "keys_of(n)"),
    (HOST, "first_step + made * block", "first_step"),
    (HOST, "(every - 1 - n) % 2", "n % 2"),
    (PACKING, "packed[..., first_bias + 1] = bias - high", "packed[..., first_bias + 1] = 0"),
    (PACKING, "channels = frozen + torch.arange(written)", "channels = torch.arange(written)"),
    (PACKING, "distinct.index(stencil) for stencil in stencils", "i for i, _ in enumerate(stencils)"),
]

NEIGHBOURS, ALIVE, MEMORY = "triton/cells.py", "triton/alive.py", "triton/through_memory/steps.py"
LAYER_PACKING = "triton/through_memory/packing.py"
PERCEIVE, PERCEIVE_BACK, ROWS = (
    "triton/through_memory/perception_forward.py",
    "triton/through_memory/perception_backward.py",
    "triton/through_memory/filters.py",
)
STEPS = "triton/steps.py"
NETWORK, NETWORK_BACK, SUMS = (
    "triton/through_memory/network_forward.py",
    "triton/through_memory/network_backward.py",
    "triton/through_memory/weight_gradients.py",
)

# In the kernels that keep perception in memory.
MEMORY_MUTANTS = [
    (NEIGHBOURS, "cell = first_cell + tl.minimum", "cell = tl.minimum"),
    (NEIGHBOURS, "* H * W + (first_cell + begin)", "* H * W + begin"),
    (NEIGHBOURS, "sample * cells + begin, cell // W", "begin, cell // W"),
    (NEIGHBOURS, "(i + by >= 0) & (i + by < n)", "i + by < n"),
    (NEIGHBOURS, "(i + by >= 0) & (i + by < n)", "i + by >= 0"),
    (NEIGHBOURS, "first_row + program // blocks", "program // blocks"),
    (NEIGHBOURS, "tl.minimum(first + band, first_row + rows)", "first + band"),
    (
        NEIGHBOURS,
        "program % blocks * BM + tl.arange(0, BM)\n    # The last column",
        "tl.arange(0, BM)\n    # The last column",
    ),
    (NEIGHBOURS, "tl.where(in_rows, W, 0)", "(W + 0 * in_rows)"),
    (ROWS, "(a + b) / 2", "a + b"),
    (ROWS, "abs(a - weight * b)", "abs(a) - abs(weight * b)"),
    (ROWS, "profiles[PROFILES[f][LAST - i]], WEIGHTS[f][LAST - i]", "profiles[PROFILES[f][i]], WEIGHTS[f][i]"),
    (ROWS, "carried[BEGIN[f] + i]", "carried[i]"),
    (ROWS, "v[R + j] - v[R - j]", "v[R - j] - v[R + j]"),
    (PERCEIVE, "(rival > most) |", "(rival >= most) |"),
    (PERCEIVE, "(rival > most) | (rival != rival)", "(rival > most)"),
    (PERCEIVE, "(rival > most[i]) |", "(rival >= most[i]) |"),
    (PERCEIVE, "(rival > most[i]) | (rival != rival)", "(rival > most[i])"),
    (PERCEIVE, 'v[BEGIN + j] if CIRCULAR else tl.where(here[BEGIN + j], v[BEGIN + j], -float("inf"))', "v[BEGIN + j]"),
    (PERCEIVE, "(MAXIMUM - 1 - i) * MAXIMUM + which", "i * MAXIMUM + which"),
    (PERCEIVE, "done = row - len(seen) // 2", "done = row - REACH"),
    (PERCEIVE, "mask=both(there, (done >= first) & (done < end))", "mask=both(there, done < end)"),
    (PERCEIVE, "tl.program_id(1) * CHUNK", "0"),
    (PERCEIVE, "(range_sample * rows - first_row)", "(range_sample * rows)"),
    (PERCEIVE_BACK, "beside(column, REACH - j, W)", "beside(column, j - REACH, W)"),
    (PERCEIVE_BACK, "column + (REACH - j)", "column + (j - REACH)"),
    (PERCEIVE_BACK, "neighbours(line + FILTERS * C", "neighbours(line"),
    (PERCEIVE_BACK, "down = 1.0 / tl.load(scale)", "down = 1.0"),
    (PERCEIVE_BACK, "winners += sample * H * W * C", "winners += 0"),
    (PERCEIVE_BACK, "won == i * MAXIMUM + j", "won == j * MAXIMUM + i"),
    (ALIVE, "was & is_now", "is_now"),
    (ALIVE, "was & is_now", "was"),
    (ALIVE, ">= FROZEN", ">= 0"),
    (ALIVE, " | (v != v)", ""),
    (ALIVE, "tl.where(written, v * mask, v)", "tl.where(written & (mask == 0), 0.0, v)"),
    (NETWORK, "m[:, None] & (o >= FROZEN)[None, :]", "m[:, None]"),
    (NETWORK, "m[:, None] & (o >= FROZEN)[None, :]", "(o >= FROZEN)[None, :]"),
    (NETWORK, "weights += sample * weights_stride", "weights += 0"),
    (NETWORK, "biases + (UNITS1 + UNITS) + o", "biases + UNITS1 + o"),
    (NETWORK, "(column + origin_column)", "column"),
    (NETWORK, "(sample * H + row) * 2", "row * 2"),
    (NETWORK_BACK, "g *= tl.load(scale)", "g *= 1.0"),
    (NETWORK_BACK, "gated(back_a, a, DOT, PRODUCT)", "back_a.to(DOT)"),
    (NETWORK_BACK, "gated(sums[k], inputs[k], DOT, PRODUCT)", "sums[k].to(DOT)"),
    (NETWORK_BACK, "biases += sample * biases_stride", "biases += 0"),
    (NETWORK_BACK, "store_chunks(grad_y + whole * K", "store_chunks(grad_y + place * K"),
    (SUMS, "tl.load(at, mask=kept, other=0.0) + sums * down", "sums * down"),
    (SUMS, "+ bias * down", "+ bias"),
    (SUMS, "line % parts * (part_blocks * BM)", "line * 0"),
    (SUMS, "there = i < count", "there = i >= 0"),
    (SUMS, "(first_row + line)", "line"),
    (SUMS, "grad_out += group * count * OUT", "grad_out += 0"),
    (MEMORY, "part.samples, cells, part.first_sample * parts", "part.samples, cells, 0"),
    (MEMORY, "            if not seen:\n", "            if False:\n"),
    (MEMORY, "return len(ranges) == 1", "return True"),
    (STEPS, "prepared.alive.bury(x, after, grad, buried)", "prepared.alive.bury(x, x, grad, buried)"),
    (STEPS, "fire, origin_column, going_back=True)", "fire, origin_column)"),
    (LAYER_PACKING, "for stencil in stencils] + [len(distinct)]", "for stencil in distinct] + [len(distinct)]"),
    (LAYER_PACKING, "[*order[1:], frozen + torch.arange(written)]", "[*order[1:], torch.arange(written)]"),
]


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("which", nargs="?", choices=("pass", "memory"), default="pass")
    options = options.parse_args()
    if options.which == "memory":
        tests = ["tests/test_triton_memory.py", "-k", "not presets"]
        hunt(MEMORY_MUTANTS, tests, "mutants_triton_memory.json", options.missed)
    hunt(MUTANTS, ["tests/test_triton.py", "-k", "not compiled"], "mutants_triton.json", options.missed)
