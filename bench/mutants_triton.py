"""Do the tests of the Triton kernels notice a mistake? Plants mistakes in them, one at a time, and runs them.

python -m bench.mutants_triton            of the single pass; writes bench/results/mutants_triton.json
python -m bench.mutants_triton memory     of the kernels that keep perception in memory; mutants_triton_memory.json
python -m bench.mutants_triton fields     of what else rules may ask for; mutants_triton_fields.json
python -m bench.mutants_triton guards     what no result shows; mutants_triton_guards.json; some minutes
python -m bench.mutants_triton launches   of repeated launches and scales; mutants_triton_launches.json; some minutes
python -m bench.mutants_triton frames     of frames; mutants_triton_frames.json
With --missed only those that the result file has not as caught. The others take an hour or more.

The kernels run in Triton's interpreter: what only the compiled kernels do (inline PTX) is out of its sight.
"""

from bench.mutants import hunt, parser
from bench.mutants_frames import FRAME_MUTANTS

FORWARD, BACKWARD, HOST, FIRE = (
    "triton/single_pass/forward.py",
    "triton/single_pass/backward.py",
    "triton/rollout.py",
    "triton/fire.py",
)
FILTERS, PRODUCTS, PACKING = "triton/single_pass/filters.py", "triton/products.py", "triton/single_pass/packing.py"
PLAN = "triton/single_pass/plan.py"
OPERANDS, WEIGHTS = "triton/single_pass/operands.py", "triton/weights.py"

# (file, what stands there, what is put there)
MUTANTS = [
    (FIRE, "high1 ^ c1 ^ k0", "high1 ^ k0"),
    (FIRE, "k1 + 0xBB67AE85", "k1"),
    (FIRE, "i // H % B", "i // H"),
    (FIRE, "(step + tl.load(place + 2))", "step"),
    (FIRE, "(below % canvas_height)", "below"),
    (FIRE, "z = mixed(column_part + k0) ^ k1", "z = mixed(column_part + k0)"),
    (FIRE, "z <= (below - 1)", "z < (below - 1)"),
    (FIRE, " & (below > 0)", ""),
    (FILTERS, "row = tl.where(row >= H, row - H, row)\n", ""),
    (FILTERS, "return tl.minimum(tl.maximum(row, 0), H - 1)", "return row"),
    (FILTERS, "c - a, b)\n", "a - c, b)\n"),
    (FILTERS, "mask=both(left_there, inside)", "mask=both(there, inside)"),
    (FILTERS, "mask=both(right_there, inside)", "mask=both(there, inside)"),
    (FILTERS, "(cell * C + (C - 4))", "(cell * C)"),
    (FILTERS, "return row + at[0] + 8 * k", "return row + at[0]"),
    (FILTERS, "y = y + (tl.full(here[3 * k].shape, 1.0, DOT),)", "y = y + (tl.full(here[3 * k].shape, 0.0, DOT),)"),
    (OPERANDS, "spare = tl.full((BW, 4 * FP), 1.0, DOT)", "spare = tl.full((BW, 4 * FP), 0.0, DOT)"),
    (OPERANDS, "spare = tl.where(mask[:, None], spare, tl.zeros_like(spare))", "spare = spare"),
    (OPERANDS, "return tl.where(mask, a.to(tl.float32), 0.0).to(DOT)", "return a"),
    (PRODUCTS, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "tl.maximum(a, 0.0)"),
    (PRODUCTS, "tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL)", "a"),
    (PRODUCTS, "a += b[j]", "a += b[0]"),
    (FORWARD, "(cell + origin_column)", "(cell)"),
    (FORWARD, "written = (i < W)[:, None]", "written = there"),
    (FORWARD, "weights += sample.to(tl.int64) * weights_stride", "weights += 0"),
    (BACKWARD, "on_canvas & (lane >= HALO) & (lane < BW - HALO)", "on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = m & on_canvas"),
    (BACKWARD, "m = both(m & on_canvas, (row >= 0) & (row < H))", "m = both(m, (row >= 0) & (row < H))"),
    (BACKWARD, "both(own, (row >= first) & (row < end))", "own"),
    (PRODUCTS, "tl.where(h.to(tl.float32) > 0, grad, 0.0)", "grad"),
    (BACKWARD, "moved_in(p + t, p - t, NARROW)", "moved_in(p - t, p + t, NARROW)"),
    (BACKWARD, "sums = sums + (begun[3 * k + 2] + straight,)", "sums = sums + (begun[3 * k + 2],)"),
    (BACKWARD, "own_y = to_matrices(seen, mine, True, DOT, PRODUCT)", "own_y = y"),
    (BACKWARD, "own_grad_u = output_matrix(fired, mine, True, COLUMNS, DOT, PRODUCT)", "own_grad_u = grad_u"),
    (PRODUCTS, "tl.store(at, tl.load(at) + scale * tiles", "tl.store(at, scale * tiles"),
    (BACKWARD, "(a * down)", "a"),
    (BACKWARD, "add_layer(partial, grad_w1, down,", "add_layer(partial, grad_w1, 1.0,"),
    (BACKWARD, "biases += rule.to(tl.int64) * biases_stride", "biases += 0"),
    (BACKWARD, "partial += program.to", "partial += (program % programs).to"),
    (BACKWARD, "HALO: tl.constexpr = 0 if RING else EDGE", "HALO: tl.constexpr = EDGE"),
    (BACKWARD, "tl.maximum(first_band - strip * bands_down, 0) * R", "first_band % bands_down * R"),
    (BACKWARD, "tl.cdiv(end_band, bands_down) - first_strip if SEVERAL else 1", "1"),
    (BACKWARD, "tl.minimum((end_band - strip * bands_down) * R, H)", "H"),
    (PLAN, "RING=circular and p.columns == W", "RING=p.columns == W"),
    (PLAN, "several=bands.several or bands.programs < sums", "several=bands.several"),
    (BACKWARD, "summed = (m & mine)[:, None]", "summed = m[:, None]"),
    (
        BACKWARD,
        "add_channels(to_biases + (UNITS1 + 8 * k), grad_b[k], down)",
        "add_channels(to_biases + UNITS1, grad_b[k], down)",
    ),
    (PRODUCTS, "tl.arange(0, WIDTH) * (8 // WIDTH)", "tl.arange(0, WIDTH)"),
    (HOST, "steps.take(j * every + n)", "steps.take(n)"),
    (HOST, "self.place.after(self.made * self.block)", "self.place"),
    (HOST, "(every - 1 - n) % 2", "n % 2"),
    (WEIGHTS, "packed[..., first_bias + 1] = bias - high", "packed[..., first_bias + 1] = 0"),
    (PACKING, "channels = frozen + torch.arange(written)", "channels = torch.arange(written)"),
    (PACKING, "distinct.index(stencil) for stencil in stencils", "i for i, _ in enumerate(stencils)"),
]

CELLS, ALIVE, MEMORY = "triton/cells.py", "triton/alive.py", "triton/through_memory/steps.py"
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
    (CELLS, "cell = first_cell + tl.minimum", "cell = tl.minimum"),
    (CELLS, "* H * W + (first_cell + begin)", "* H * W + begin"),
    (CELLS, "sample * cells + begin, cell // W", "begin, cell // W"),
    (CELLS, "(i + by >= 0) & (i + by < n)", "i + by < n"),
    (CELLS, "(i + by >= 0) & (i + by < n)", "i + by >= 0"),
    (CELLS, "first_row + program // blocks", "program // blocks"),
    (CELLS, "tl.minimum(first + program_rows, first_row + rows)", "first + program_rows"),
    (
        CELLS,
        "program % blocks * BM + tl.arange(0, BM)\n    # The last column",
        "tl.arange(0, BM)\n    # The last column",
    ),
    (CELLS, "tl.where(in_rows, W, 0)", "(W + 0 * in_rows)"),
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
    (PERCEIVE, "tl.program_id(1) * GROUP", "0"),
    (PERCEIVE, "(range_sample * rows - first_row)", "(range_sample * rows)"),
    (PERCEIVE_BACK, "beside(column, REACH - j, W)", "beside(column, j - REACH, W)"),
    (PERCEIVE_BACK, "columns + (column + (REACH - j - RING),)", "columns + (column + (j - REACH - RING),)"),
    (PERCEIVE_BACK, "neighbours(line + FILTERS * C", "neighbours(line"),
    (PERCEIVE_BACK, "down = 1.0 / tl.load(scale)", "down = 1.0"),
    (PERCEIVE_BACK, "winners += sample * H * W * C", "winners += 0"),
    (PERCEIVE_BACK, "won == i * MAXIMUM + j", "won == j * MAXIMUM + i"),
    (ALIVE, "was & is_now", "is_now"),
    (ALIVE, "was & is_now", "was"),
    (ALIVE, ">= FROZEN", ">= 0"),
    (ALIVE, " | (v != v)", ""),
    (ALIVE, "tl.where(written, v * mask, v)", "tl.where(written & (mask == 0), 0.0, v)"),
    (NETWORK, "across(m) & (o >= FROZEN)[None, :]", "across(m)"),
    (NETWORK, "across(m) & (o >= FROZEN)[None, :]", "(o >= FROZEN)[None, :]"),
    (NETWORK, "weights += sample * weights_stride", "weights += 0"),
    (NETWORK, "biases + (UNITS1 + UNITS) + o", "biases + UNITS1 + o"),
    (NETWORK, "(column + origin_column)", "column"),
    (NETWORK, "fires(column_part, keys + (sample * H + row) * WORDS", "fires(column_part, keys + row * WORDS"),
    (NETWORK_BACK, "g *= tl.load(scale)", "g *= 1.0"),
    (NETWORK_BACK, "gated(back_a, z_h if F[3] else a, F, DOT, PRODUCT)", "back_a.to(DOT)"),
    (NETWORK_BACK, "gated(sums[k], at_slope, FUNCTIONS[0], DOT, PRODUCT)", "sums[k].to(DOT)"),
    (NETWORK_BACK, "biases += sample * biases_stride", "biases += 0"),
    (NETWORK_BACK, "store_chunks(grad_y + whole * K", "store_chunks(grad_y + place * K"),
    (SUMS, "tl.load(at, mask=kept, other=0.0) + sums * down", "sums * down"),
    (SUMS, "+ bias * down", "+ bias"),
    (SUMS, "line % parts * (part_blocks * BM)", "line * 0"),
    (SUMS, "there = i < count", "there = i >= 0"),
    (SUMS, "(first_row + line)", "line"),
    (SUMS, "grad_out += rule * count * OUT", "grad_out += 0"),
    (MEMORY, "part.samples, cells, part.first_sample * parts", "part.samples, cells, 0"),
    (MEMORY, "            if not kept:\n", "            if False:\n"),
    (MEMORY, "return len(ranges) == 1", "return True"),
    (STEPS, "living=alive.living(x, after)", "living=alive.living(x, x)"),
    (STEPS, "after, step, keep=True)", "after, step)"),
    (LAYER_PACKING, "for stencil in stencils] + [len(distinct)]", "for stencil in distinct] + [len(distinct)]"),
    (LAYER_PACKING, "[*order[1:], frozen + torch.arange(written)]", "[*order[1:], torch.arange(written)]"),
]

UPDATE, NOISE, ACTIVATIONS = "triton/update.py", "triton/noise.py", "triton/activations.py"

# In what rules ask for beyond Distill's step: one for each trap of theirs that these kernels could fall into, and more.
FIELD_MUTANTS = [
    (ALIVE, "-(2**31)).to", "0).to"),
    (ALIVE, "< 0) & (v == 0)", "< 0)"),
    (STEPS, "out, step._replace(living=alive.living(x, x))", "out, step._replace(living=alive.living(s, s))"),
    (STEPS, "weights.forward_way.forward(s, after, step)\n", "weights.forward_way.forward(x, after, step)\n"),
    (UPDATE, "m = m & written\n", "m = m\n"),
    (UPDATE, "m = m & alive", "m = m"),
    (UPDATE, "v * tl.where(alive, 1.0, 0.0), v)", "v * tl.where(alive, 1.0, 0.0), v * tl.where(alive, 1.0, 0.0))"),
    (UPDATE, "(v >= CLAMP[0]) & (v <= CLAMP[1])", "(v > CLAMP[0]) & (v < CLAMP[1])"),
    (UPDATE, "tl.where(m & written, 0.0, g)", "g"),
    (UPDATE, "return tl.where(m, u, s)", "return tl.where(m, u, 0.0)"),
    (NOISE, "3 * c, NOISE[2]", "c, NOISE[2]"),
    (FORWARD, "lane = 3 * (c + FROZEN + WRITTEN)", "lane = 3 * c"),
    (NETWORK, "3 * (channel + FROZEN + WRITTEN)", "3 * channel"),
    (FIRE, "zero if SHARED_HEIGHT else row_counter", "row_counter"),
    (FIRE, "zero if SHARED_BATCH else sample_counter", "sample_counter"),
    (FIRE, "_, _, k2, k3 = philox(row_counter, sample_counter", "_, _, k2, k3 = philox(zero, zero"),
    (FIRE, "part = part + lane_part(channel)[None, :]", "part = part"),
    (FIRE, "tl.maximum(channel - FROZEN, 0)", "channel"),
    (HOST, "number = self.place.first_step + n", "number = n"),
    (HOST, "self.of_fire[number % len(self.of_fire)]", "self.of_fire[0]"),
    (WEIGHTS, "self.now = self.of_steps[self.entry]", "self.now = self.of_steps[0]"),
    (ACTIVATIONS, "s = tl.where(at > 0, grad, F[1] * grad)", "s = tl.where(at >= 0, grad, F[1] * grad)"),
    (ACTIVATIONS, "s = tl.where(at > 0, grad, F[1] * grad)", "s = tl.where(at > 0, grad, 0.0)"),
    (CELLS, "n - 1 - tl.abs(n - 1 - tl.abs(i))", "n - 1 - tl.abs(n - tl.abs(i))"),
    (PERCEIVE_BACK, "(rows_mine & columns_mine & there)", "(rows_mine & there)"),
    (BACKWARD, "g = masked(g, alive[:, None], written_here)", "g = g"),
    (BACKWARD, "                    m = m & alive", "                    m = m"),
    (NETWORK_BACK, "takes = takes & alive", "takes = takes"),
    (NETWORK_BACK, "applied(z, LAST) + e, takes", "applied(z, LAST), takes"),
]

HALF = "triton/half_range.py"

# What no result shows, or only a large canvas: reads beside a tensor, addresses of 32 bits; and the range of float16.
GUARD_MUTANTS = [
    (FORWARD, "cell = tl.minimum(i, W - 1)", "cell = i"),
    (FORWARD, "out + row.to(tl.int64) * stride", "out + row * (W * C)"),
    (FORWARD, "x += sample.to(tl.int64) * H * stride", "x += sample * H * (W * C)"),
    (FORWARD, "out += sample.to(tl.int64) * H * stride", "out += sample * H * (W * C)"),
    (FILTERS, "base = x + wrapped(row, H).to(tl.int64) * stride", "base = x + wrapped(row, H) * stride.to(tl.int32)"),
    (BACKWARD, "to = grad_x_of + (row - 1).to(tl.int64) * stride", "to = grad_x_of + (row - 1) * (W * C)"),
    (BACKWARD, "grad_of = grad + sample * H * stride", "grad_of = grad + sample * tl.minimum(H, 4) * stride"),
    (BACKWARD, "grad_x_of = grad_x + sample * H * stride", "grad_x_of = grad_x + sample.to(tl.int32) * H * (W * C)"),
    (BACKWARD, "end_band = tl.minimum(first_band + bands, all_bands)", "end_band = first_band + bands"),
    (BACKWARD, "cell = (column + W) % W", "cell = column"),
    (BACKWARD, "cell = tl.minimum(tl.maximum(column, 0), W - 1)", "cell = column"),
    (CELLS, "cell = first_cell + tl.minimum(begin + i, cells - 1)", "cell = first_cell + begin + i"),
    (HALF, "while taps > 1.999 * 2**k", "while taps > 64 * 2**k"),
    (HALF, "(_exponent(largest) - _LARGEST_UNIT)", "(_exponent(largest) - 40)"),
    (HALF, "room = _LARGEST_SUM -", "room = 60 -"),
    (STEPS, "grad = grad if weights.scales is None else grad * weights.scales", "grad = grad"),
]

LAUNCH, LAID_OUT, TOGETHER = "triton/launch.py", "triton/laid_out.py", "triton/together.py"
IN_C, SCALE = "triton/together.cpp", "triton/gradient_scale.py"

# In what repeats launches and keeps them across rollouts, and in the scales of gradients.
LAUNCH_MUTANTS = [
    (LAUNCH, "device, *of_arguments, *self", "device, *self"),
    (LAUNCH, "*self.constants, *self.constants.values()", "*self.constants"),
    (LAUNCH, "[None if of else a for", "[None for"),
    (LAUNCH, "return address % _ALIGNMENT == 0\n", "return True\n"),
    (LAUNCH, "if not reduce(or_, addresses) % _ALIGNMENT", "if not addresses[0] % _ALIGNMENT"),
    (LAUNCH, "len(tensors), *map(ids.index, ids), *kinds", "len(tensors), *kinds"),
    (LAUNCH, "(t.dtype, t.shape, self.kind", "(t.dtype, self.kind"),
    (LAUNCH, "return self.what, tensors[0].device", "return tensors[0].device"),
    (LAUNCH, "memory[n].untyped_storage().data_ptr() in changing", "n in changing"),
    (LAUNCH, "if passed and passed[-1] >= len(one.arguments):", "if False:"),
    (LAUNCH, "or not one.constants.keys() >= set(names)", ""),
    (LAUNCH, "if len(_known) > _MOST", "if False"),
    (LAID_OUT, "if n >= self.count:", "if n > self.count:"),
    (LAID_OUT, "all(kind(t, t.data_ptr()) == wanted[3]", "all(True"),
    (LAID_OUT, "return before[:6] == expected and", "return"),
    (LAID_OUT, " and list(after) == values", ""),
    (LAID_OUT, 'hook is not None and getattr(hook, "calls", True)', "False"),
    (LAID_OUT, "(passed.index(at), n)", "(at, n)"),
    (LAID_OUT, "while len(_kept) > _MOST", "while False"),
    (LAID_OUT, "        if found is not None:\n            _kept.move_to_end(key)\n", ""),
    (TOGETHER, " for v in arguments] + [0, 0]", " for v in arguments]"),
    (TOGETHER, "(at, n - count)", "(at, n)"),
    (TOGETHER, "v & (2**64 - 1)", "v & (2**32 - 1)"),
    (TOGETHER, 'types[at][0] in "*iu"', 'types[at][0] in "*iuf"'),
    (TOGETHER, "        if status:", "        if False:"),
    (IN_C, "step->values + l.first + i", "step->values + i"),
    (IN_C, "step->failed = n;", ""),
    (IN_C, "return status;", "continue;"),
    (SCALE, "tl.program_id(0).to(tl.int64) * blocks *", "tl.program_id(0).to(tl.int64) *"),
    (SCALE, "range(blocks)", "range(1)"),
    (SCALE, "bitcast=True) & 0x7FFFFFFF", "bitcast=True)"),
    (SCALE, "(quad < quads)[:, None]", "(quad <= quads)[:, None]"),
    (SCALE, "tl.where(number == number, power, number)", "power"),
    (SCALE, "127 - 60), 127 + 60", "127 - 60), 127 + 80"),
    (SCALE, "mask=i < count", "mask=i < 1"),
    (HOST, "            choose_scale(grad)\n", ""),
]


if __name__ == "__main__":
    options = parser(__doc__)
    which = ("pass", "memory", "fields", "guards", "launches", "frames")
    options.add_argument("which", nargs="?", choices=which, default="pass")
    options = options.parse_args()
    if options.which == "memory":
        tests = ["tests/test_triton_memory.py", "-k", "not presets"]
        hunt(MEMORY_MUTANTS, tests, "mutants_triton_memory.json", options.missed)
    if options.which == "fields":
        tests = ["tests/test_triton_fields.py", "tests/test_fields_of_rules.py", "-k", "fields or triton or everywhere"]
        hunt(FIELD_MUTANTS, tests, "mutants_triton_fields.json", options.missed)
    if options.which == "guards":
        tests = ["tests/test_triton_guards.py", "tests/test_triton_range.py"]
        hunt(GUARD_MUTANTS, tests, "mutants_triton_guards.json", options.missed)
    if options.which == "launches":
        tests = ["tests/test_triton_launch.py", "tests/test_triton_graphs.py", "-k", "launched or gradient"]
        hunt(LAUNCH_MUTANTS, tests, "mutants_triton_launches.json", options.missed)
    if options.which == "frames":
        tests = ["tests/test_triton_frames.py", "tests/test_triton_graphs.py", "-k", "test_triton_frames or frames"]
        hunt(FRAME_MUTANTS, tests, "mutants_triton_frames.json", options.missed)
    hunt(MUTANTS, ["tests/test_triton.py", "-k", "not compiled"], "mutants_triton.json", options.missed)
