"""The automaton in Python's own numbers and lists, from what nca_fast/vectors/README.md says and nothing else.

It imports neither torch nor nca_fast: what it can compute, any other language can.
"""

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


def fires(where, step, sample, row, column, rate):
    seed, height = int(where["seed"], 16), where["canvas_height"] or 2**32
    counter = ((where["origin"][0] + row) % height, where["first_sample"] + sample, where["first_step"] + step, 0)
    k0, k1, _, _ = philox(counter, (seed & WORD, seed >> 32))
    z = hashed(((where["origin"][1] + column) * 0x9E3779B9 + k0) & WORD)
    return z ^ k1 < rate * 2**32


def answer(vector):
    """The state after the last step, as a list, of a vector as JSON has it."""
    rule, (B, C, H, W) = vector["rule"], vector["shape"]
    first, ones = 16 * (vector["salt"] or 0), vector["salt"] is None
    x = [0.0] * (B * C * H * W) if ones else stream(first, B * C * H * W, vector["state_scale"])
    rates = [rule["fire_rate"]] * (H * W)
    if vector["rate_map"]:
        rates = [(k + 1) / 2 for k in stream(first + 2, H * W)]
    layers = _layers(vector, first, ones)
    for step in range(vector["steps"]):
        x = _step(x, layers, rule, (B, C, H, W), rates, vector["where"], step)
    return x


def _layers(vector, first, ones):
    """For every layer the weights of each sample, as rows, and its biases."""
    rule, (B, C, _, _) = vector["rule"], vector["shape"]
    inputs = C * (len(rule["filters"]) + (rule["maximum_window"] is not None))
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


def _step(x, layers, rule, shape, rates, where, step):
    B, C, H, W = shape
    torus = rule["padding"] == "circular"

    def at(state, b, c, row, column):
        if torus:
            row, column = row % H, column % W
        elif not (0 <= row < H and 0 <= column < W):
            return None
        return state[((b * C + c) * H + row) * W + column]

    def window(state, b, c, row, column, size):
        reach = range(-(size // 2), size // 2 + 1)
        return [[at(state, b, c, row + i, column + j) for j in reach] for i in reach]

    def filtered(filter, b, c, row, column):
        pairs = zip(filter["taps"], window(x, b, c, row, column, len(filter["taps"])), strict=True)
        terms = (tap * (value or 0.0) for taps, values in pairs for tap, value in zip(taps, values, strict=True))
        return filter["scale"] * sum(terms)

    def highest(state, b, c, row, column, size):
        return max(v for values in window(state, b, c, row, column, size) for v in values if v is not None)

    def alive(state, b, row, column):
        return highest(state, b, rule["alive_channel"], row, column, 3) > rule["alive_threshold"]

    after = list(x)
    cells = [(b, row, column) for b in range(B) for row in range(H) for column in range(W)]
    for b, row, column in cells:
        if not fires(where, step, b, row, column, rates[row * W + column]):
            continue
        y = [filtered(filter, b, c, row, column) for filter in rule["filters"] for c in range(C)]
        if rule["maximum_window"] is not None:
            y += [highest(x, b, c, row, column, rule["maximum_window"]) for c in range(C)]
        for number, layer in enumerate(layers):
            rows, biases = layer[b]
            y = [bias + sum(w * v for w, v in zip(row, y, strict=True)) for row, bias in zip(rows, biases, strict=True)]
            y = [max(v, 0.0) for v in y] if number < len(layers) - 1 else y
        for c, update in enumerate(y, rule["frozen"]):
            after[((b * C + c) * H + row) * W + column] += update
    if rule["alive_channel"] is None:
        return after
    dead = [cell for cell in cells if not (alive(x, *cell) and alive(after, *cell))]
    for b, row, column in dead:
        for c in range(rule["frozen"], C):
            after[((b * C + c) * H + row) * W + column] = 0.0
    return after
