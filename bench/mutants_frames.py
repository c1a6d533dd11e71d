"""Mistakes in the frames of the Triton kernels, which `python -m bench.mutants_triton frames` plants."""

FORWARD, BACKWARD = "triton/single_pass/forward.py", "triton/single_pass/backward.py"
PERCEIVE, PERCEIVE_BACK = (
    "triton/through_memory/perception_forward.py",
    "triton/through_memory/perception_backward.py",
)
FRAMES, MEMORY, HALF = "triton/frames.py", "triton/through_memory/steps.py", "triton/half_range.py"
STEPS, GRAPHS = "triton/steps.py", "triton/graphs.py"

# (file, what stands there, what is put there)
FRAME_MUTANTS = [
    (FRAMES, "return a * own - b * other", "return a * own + b * other"),
    (FRAMES, "return (a * a + b * b) * own", "return own"),
    (FRAMES, "return (a * a + b * b) * own", "return (a * a + b * b) * (a * a + b * b) * own"),
    (FRAMES, "y: (-1, x)", "y: (1, x)"),
    (FRAMES, "turn(g[n], other, a, -b,", "turn(g[n], other, a, b,"),
    (FRAMES, "sample * TURNS[0] * 2 * cells", "sample * 0 * cells"),
    (FRAMES, "tl.load(field + cells + at)", "tl.load(field + at)"),
    (FRAMES, "scale += 2.0 * tl.sum", "scale += tl.sum"),
    (FRAMES, "g_y * along_x - g_x * along_y", "g_x * along_y - g_y * along_x"),
    (FRAMES, "tl.load(here, mask=mine, other=0.0) + down * scale", "down * scale"),
    (FRAMES, "tl.load(here, mask=mine, other=0.0) + down * angle", "down * angle"),
    (FRAMES, "at = whole - sample * canvas", "at = place"),
    (FRAMES, "turns + sample * 2 * canvas", "turns"),
    (FRAMES, "    down = 1.0\n    if SCALED:\n        down = 1.0 / tl.load(scale)", "    down = 1.0"),
    (FORWARD, "frame = frame_at(field, at, cells)", "frame = frame_at(field, first * W + cell, cells)"),
    (BACKWARD, "frame_at(field, at * W + cell, cells)", "frame_at(field, first * W + cell, cells)"),
    (BACKWARD, "frame_at(field, at * W + cell, cells)", "frame_at(field, at * W + lane % W, cells)"),
    (BACKWARD, "add_turns(turns_of, at * W + cell, cells, by_scale, by_angle, down, mine)", "turns_of = turns_of"),
    (BACKWARD, "by_angle, down, mine)", "by_angle, down, own)"),
    (BACKWARD, "by_angle, down, mine)", "by_angle, 1.0, mine)"),
    (BACKWARD, "turns_of = turns + sample * 2 * cells", "turns_of = turns"),
    (BACKWARD, "q = turned_back(q, frame[0], frame[1], TURNS, FP)", "q = q"),
    (PERCEIVE, "row - len(WEIGHTS[f]) // 2, 0)", "row, 0)"),
    (PERCEIVE, "other = slide(carried, profiles, PROFILES, WEIGHTS, BEGIN, TURNS[1][f][1])[0]", "other = answer"),
    (PERCEIVE_BACK, "-frame[j][1], KIND)", "frame[j][1], KIND)"),
    (PERCEIVE_BACK, "at.to(tl.int64) * W + seers[j]", "at.to(tl.int64) * W + tl.minimum(column, W - 1)"),
    (PERCEIVE_BACK, "frame_at(field, at.to(tl.int64) * W", "frame_at(field, tl.minimum(row * 0 + n, H - 1) * W"),
    (MEMORY, "self._frame_gradients(x, y, grad_y, buffer.turns, scale, part)", "pass"),
    (HALF, "incoming, largest = incoming + more, largest", "incoming, largest = incoming, largest"),
    (HALF, "powers[n] = 2", "powers[n] = 1"),
    (HALF, "field * _power(-r)", "field * 1.0"),
    (STEPS, "reach, field = reach_of_frames(field)", "reach, field = None, field"),
    (STEPS, "self.frames.field.copy_(other.frames.field)", "pass"),
    (GRAPHS, "            given.copy_(mine)", "            given.copy_(mine) if mine is frame.buffer[0] else None"),
    ("frames.py", "b * scale + a * angle", "b * scale - a * angle"),
    ("frames.py", "turns.sum(0, keepdim=True) if", "turns[:1] if"),
]
