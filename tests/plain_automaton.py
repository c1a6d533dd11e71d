"""The automaton in Python's own numbers and lists, from what nca_fast/vectors/README.md says and nothing else.

It imports neither torch nor nca_fast: what it can compute, any other language can.
"""

import math
import re
import struct

WORD = 2**32 - 1


def hashed(z):
    z ^= z >> 16
    z = z * 0x21F0AAAD & WORD
    z ^= z >> 15
    z = z * 0x735A2D97 & WORD
    return z ^ z >> 15


def stream(number, count, scale=1.0):
    words = (hashed((i * 0x9E3779B9 + number * 0x85EBCA6B) & WORD) for i in range(count))
    return [((z >> 20) - 2048) / 2048 * scale for z in words]


def philox(counter, key):
    """Philox4x32-10 of Random123."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second & WORD, first >> 32 ^ d ^ m, first & WORD
        k, m = (k + 0x9E3779B9) & WORD, (m + 0xBB67AE85) & WORD
    return a, b, c, d


def fires(where, step, sample, row, column, rate, shared, lane):
    row_number = 0 if "height" in shared else (where["origin"][0] + row) % (where["canvas_height"] or 2**32)
    sample_number = 0 if "batch" in shared else where["first_sample"] + sample
    counter, seed = (row_number, sample_number, where["first_step"] + step, 0), int(where["seed"], 16)
    keys, column = philox(counter, (seed & WORD, seed >> 32)), 0 if "width" in shared else where["origin"][1] + column
    return drawn(column, lane, *keys[:2]) < rate * 2**32


def drawn(column, lane, add, flip):
    return hashed(((column + lane * 0x9E3779B9) * 0x9E3779B9 + add) & WORD) ^ flip


def normal(where, step, sample, row, column, lane):
    seed, height = int(where["seed"], 16), where["canvas_height"] or 2**32
    counter = ((where["origin"][0] + row) % height, where["first_sample"] + sample, where["first_step"] + step, 0)
    keys = philox(counter, (seed & WORD, seed >> 32))[2:]
    a, b, c = (drawn(where["origin"][1] + column, lane + i, *keys) for i in range(3))
    whole = 65536 * (bin(a).count("1") + bin(b).count("1") - 32) + (c & 0xFFFF) - (c >> 16)
    return single(whole * single(1 / (65536 * math.sqrt(16 + 1 / 6))))


def single(number):
    """Rounds to float32."""
    return struct.unpack("f", struct.pack("f", number))[0]


def activated(text, z):
    match = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?(?:/(.*))?", text)
    name, parameter, divisor = match.group(1), float(match.group(2) or 1), float(match.group(3) or 1)
    functions = {
        "identity": lambda: z,
        "relu": lambda: max(z, 0.0),
        "leaky_relu": lambda: z if z > 0 else parameter * z,
        "elu": lambda: z if z > 0 else math.expm1(z),
        "gelu": lambda: z * (1 + math.erf(z / math.sqrt(2))) / 2,
        "tanh": lambda: math.tanh(z),
    }
    return functions[name]() / divisor


def answer(vector):
    """The state after the last step, as a list, of a vector as JSON has it."""
    rule, (B, C, H, W) = vector["rule"], vector["shape"]
    first, ones = 16 * (vector["salt"] or 0), vector["salt"] is None
    x = [0.0] * (B * C * H * W) if ones else stream(first, B * C * H * W, vector["state_scale"])
    rates = [rule["fire_rate"]] * (H * W)
    if vector["rate_map"]:
        rates = [(k + 1) / 2 for k in stream(first + 2, H * W)]
    layers, count = _layers(vector, first, ones), rule["learned_filters"] * C * 9
    kernels = stream(first + 15, count * (B if vector["per_sample"] else 1), vector["weight_scale"])
    kernels = [kernels[s * count : (s + 1) * count] or kernels for s in range(B)]
    frames = stream(first + 14, 2 * H * W) if vector["frames"] else [1.0] * (H * W) + [0.0] * (H * W)
    for step in range(vector["steps"]):
        x = _step(x, kernels, layers, rule, (B, C, H, W), rates, frames, vector["where"], step)
    return x


def _layers(vector, first, ones):
    """For every layer the weights of each sample, as rows, and its biases."""
    rule, (B, C, _, _) = vector["rule"], vector["shape"]
    inputs = C * (len(rule["filters"]) + rule["learned_filters"] + (rule["maximum_window"] is not None))
    widths, layers = [inputs, *rule["hidden"], C - rule["frozen"]], []
    for layer in range(len(widths) - 1):
        ins, outs, last = widths[layer], widths[layer + 1], layer == len(widths) - 2
        samples, scale = B if vector["per_sample"] else 1, vector["weight_scale"] * (not ones)
        weights = stream(first + 3 + 2 * layer, samples * outs * ins, scale)
        biases = stream(first + 4 + 2 * layer, samples * outs, scale)
        if not rule["output_bias" if last else "hidden_bias"]:
            biases = [0.0] * (samples * outs)
        elif ones and last:
            biases = [1.0] * (samples * outs)
        rows = [weights[i * ins : (i + 1) * ins] for i in range(samples * outs)]
        layers.append(
            [(rows[s * outs : (s + 1) * outs], biases[s * outs : (s + 1) * outs]) for s in range(samples)] * B
        )
    return layers


def _turned(y, filters, a, b):
    """What a cell of frame (a, b) perceives; y[f] are the answers of filter f, one for each channel."""
    seen, places = list(y), {(f["name"], f["scale"]): n for n, f in enumerate(filters)}
    for n, filter in enumerate(filters):
        other = places.get((filter["name"].replace("_x", "_y"), filter["scale"]))
        if "_x" in filter["name"]:
            seen[n] = [a * g - b * h for g, h in zip(y[n], y[other], strict=True)]
            seen[other] = [b * g + a * h for g, h in zip(y[n], y[other], strict=True)]
        elif "laplacian" in filter["name"]:
            seen[n] = [(a * a + b * b) * v for v in y[n]]
    return [v for answers in seen for v in answers]


def _step(x, kernels, layers, rule, shape, rates, frames, where, step):
    B, C, H, W = shape
    written, padding = range(rule["frozen"], C), rule["padding"]
    cells = [(b, row, column) for b in range(B) for row in range(H) for column in range(W)]

    def beside(i, size):
        if padding == "circular":
            return i % size
        if padding == "reflect":
            i = -i if i < 0 else i if i < size else 2 * (size - 1) - i
        if padding == "replicate":
            i = min(max(i, 0), size - 1)
        return i if 0 <= i < size else None

    def at(state, b, c, row, column):
        return state[((b * C + c) * H + row) * W + column]

    def filtered(taps, b, c, row, column):
        size, total = len(taps), 0.0
        for i in range(size):
            for j in range(size):
                r, k = beside(row + i - size // 2, H), beside(column + j - size // 2, W)
                if r is not None and k is not None:
                    total += taps[i][j] * at(seen, b, c, r, k)
        return total

    def highest(state, b, c, row, column, size, torus):
        reach, found = range(-(size // 2), size // 2 + 1), []
        for r in (row + i for i in reach):
            for k in (column + j for j in reach):
                if torus or (0 <= r < H and 0 <= k < W):
                    found.append(at(state, b, c, r % H, k % W))
        return max(found)

    def alive(state, b, row, column):
        torus = (rule["alive_padding"] or padding) == "circular"
        return highest(state, b, rule["alive_channel"], row, column, 3, torus) > rule["alive_threshold"]

    def noise(lane, *place):
        return normal(where, step, *place, lane)

    living, mode = rule["alive_channel"] is not None, rule["alive_mask"]
    was = {cell: living and alive(x, *cell) for cell in cells}
    seen = list(x)
    for b, row, column in cells:
        for c in written:
            if rule["state_noise"]:
                seen[((b * C + c) * H + row) * W + column] += rule["state_noise"] * noise(3 * c, b, row, column)
    after, hidden = list(seen), rule["activation"]
    names = [hidden] * len(rule["hidden"]) if isinstance(hidden, str) else hidden
    for b, row, column in cells:
        rate, shared = rates[row * W + column], rule["fire_shared"]
        lanes = {c: 0 if "channel" in shared else c for c in written}
        fired = [c for c, lane in lanes.items() if fires(where, step, b, row, column, rate, shared, lane)]
        if not fired or (living and mode == "update" and not was[b, row, column]):
            continue
        y = [[f["scale"] * filtered(f["taps"], b, c, row, column) for c in range(C)] for f in rule["filters"]]
        place = row * W + column
        y = _turned(y, rule["filters"], frames[place], frames[H * W + place]) if any(frames[H * W :]) else sum(y, [])
        for n in range(rule["learned_filters"] * C):
            taps = [kernels[b][9 * n + 3 * i : 9 * n + 3 * i + 3] for i in range(3)]
            y.append(filtered(taps, b, n % C, row, column))
        if rule["maximum_window"] is not None:
            torus = padding == "circular"
            y += [highest(seen, b, c, row, column, rule["maximum_window"], torus) for c in range(C)]
        for layer, name in zip(layers, [*names, rule["update_activation"]], strict=True):
            rows, biases = layer[b]
            y = [bias + sum(w * v for w, v in zip(row, y, strict=True)) for row, bias in zip(rows, biases, strict=True)]
            y = [activated(name, v) for v in y]
        for c in fired:
            u, place = y[c - rule["frozen"]], ((b * C + c) * H + row) * W + column
            if rule["update_noise"]:
                u += rule["update_noise"] * noise(3 * (C + c), b, row, column)
            after[place] = after[place] + u if rule["residual"] else u
    if living and mode != "update":
        now = {cell: mode == "before" or alive(after, *cell) for cell in cells}
        for b, row, column in cells:
            if not (now[b, row, column] and (mode == "after" or was[b, row, column])):
                for c in written:
                    after[((b * C + c) * H + row) * W + column] = 0.0
    if rule["clamp"] is not None:
        low, high = (
            bound if bound is not None else side
            for bound, side in zip(rule["clamp"], (-math.inf, math.inf), strict=True)
        )
        for b, row, column in cells:
            for c in written:
                place = ((b * C + c) * H + row) * W + column
                after[place] = min(max(after[place], low), high)
    return after
