"""Makes the known answers of nca_fast/vectors from the reference in float64: python -m bench.vectors

Numbers are chosen (by their salt) so that no rounding can decide anything: no hidden unit near zero, no cell near the
threshold of the alive mask, no two cells that are nearly each other's local maximum. What is left is the rounding of
float32, for which the tolerances stand. The script says which share of them the backends of this machine use.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from nca_fast import Rule, backends, conformance, reference
from nca_fast.conformance import Vector
from nca_fast.presets import PRESETS

DIGITS = 10  # of an answer: a thousandth of float32's rounding
MARGIN = 1e-4  # of every decision
UNIT = 2.0**-24  # half of float32's spacing at 1
FORWARD_UNITS, BACKWARD_UNITS = 16, 32  # worst seen: 0.29 and 0.38 of them
LARGE = 2**64 - 1
WHERE = {"seed": 7, "first_step": 0, "origin": (0, 0), "first_sample": 0, "canvas_height": None}


def mask(about, *, rate=0.5, shape=(1, 1, 6, 7), rate_map=False, rule=None, **where):
    """Asks for a fire mask, or by a rule with noise for normal numbers."""
    rule = {"channels": shape[1], "hidden": (1,), "filters": ("identity",), "output_bias": True} | (rule or {})
    rule = Rule(fire_rate=rate, **rule)
    return Vector("", about, rule, shape, 1, WHERE | where, None, 1.0, 1.0, False, rate_map, False, False, {})


def rolled(about, *, shape=(1, 6, 7), steps=2, scale=0.25, gradients=True, **fields):
    """Asks for a rollout of a rule with few channels."""
    given = [fields.pop(name, False) for name in ("per_sample", "rate_map", "frames")]
    where = {name: fields.pop(name) for name in WHERE if name in fields}
    preset = fields.pop("rule", None)
    rule = preset or Rule(**{"channels": 4, "hidden": (6,), "output_bias": True} | fields)
    size = (shape[0], rule.channels, *shape[1:])
    return Vector("", about, rule, size, steps, WHERE | where, 0, 0.5, scale, *given, gradients, {})


SOBEL = ("identity", "sobel_x/8", "sobel_y/8")
QUESTIONS = {
    "mask_01_seed": mask("The fire mask of a small seed."),
    "mask_02_largest_seed": mask("All 64 bits of the seed count.", seed=LARGE, first_step=3),
    "mask_03_high_word": mask(
        "Only the high word of the seed is not zero; a low rate.", seed=2**63 + 2**32, rate=0.125
    ),
    "mask_04_last_step": mask("The largest number of a step.", first_step=2**32 - 1),
    "mask_05_far_origin": mask("Rows beyond 2**31, and columns that go on with 0.", origin=(2**31 + 5, 2**32 - 4)),
    "mask_06_samples": mask("A part of a large batch.", shape=(2, 1, 5, 6), first_sample=1_000_000_007),
    "mask_07_wrapped_rows": mask("A strip goes on with row 0 of its canvas.", origin=(6, 2), canvas_height=9),
    "mask_08_rate_map": mask("Each cell has its own fire rate.", rate_map=True, seed=11),
    "mask_09_always": mask("At a fire rate of 1 every cell fires.", rate=1.0),
    "mask_10_by_channel": mask(
        "Every channel after the frozen one fires for itself.",
        shape=(1, 4, 4, 5),
        rule={"fire_shared": (), "frozen": 1},
        origin=(1, 2**32 - 2),
    ),
    "mask_11_shared": mask(
        "All samples and columns share their draws.",
        shape=(2, 1, 7, 3),
        rule={"fire_shared": ("batch", "channel", "width")},
        first_sample=3,
    ),
    "mask_12_normal": mask(
        "The normal numbers of the state; no cell fires.",
        rate=0.0,
        shape=(2, 3, 3, 4),
        rule={"state_noise": 1.0, "frozen": 1},
        seed=LARGE,
    ),
    "mask_13_normal_of_update": mask(
        "An update of 1 with its normal numbers; all cells fire.",
        rate=1.0,
        shape=(1, 2, 3, 4),
        rule={"update_noise": 1.0},
    ),
    "rollout_01_texture": rolled("Identity, both Sobel filters and the Laplacian on a torus.", output_bias=False),
    "rollout_02_preset": rolled(
        "The preset `texture` itself, values alone.",
        rule=PRESETS["texture"]["rule"],
        steps=3,
        scale=0.125,
        gradients=False,
    ),
    "rollout_03_zero_padding": rolled("Beyond the canvas all is zero.", padding="zero", filters=SOBEL),
    "rollout_04_growing": rolled(
        "The alive mask, before and after the update, with zero padding.",
        padding="zero",
        filters=SOBEL,
        alive_channel=3,
        alive_threshold=0.25,
        scale=0.5,
    ),
    "rollout_05_local_maximum": rolled(
        "The local maximum is perceived after all filters; none lies beyond the canvas.",
        channels=3,
        padding="zero",
        filters=SOBEL,
        maximum_window=3,
        scale=0.5,
    ),
    "rollout_06_large_filter": rolled(
        "A filter of 7 x 7 beside one of 3 x 3, on a torus of 6 x 5 cells.",
        shape=(1, 6, 5),
        channels=3,
        filters=("identity", "sobel_x7/8", "sobel_y/8"),
        scale=0.5,
    ),
    "rollout_07_two_hidden_layers": rolled(
        "Two hidden layers, and a filter that is there twice.",
        channels=3,
        hidden=(6, 5),
        filters=("identity", "laplacian/8", "laplacian/8"),
        scale=0.5,
    ),
    "rollout_08_frozen": rolled("Two channels are read and never written; all cells fire.", frozen=2, fire_rate=1.0),
    "rollout_09_rate_map": rolled("Parts of a canvas at different speeds.", channels=3, rate_map=True, filters=SOBEL),
    "rollout_10_rule_per_sample": rolled(
        "Every sample has weights of its own.", shape=(2, 4, 5), channels=3, hidden=(4,), per_sample=True, scale=0.5
    ),
    "rollout_11_later": rolled(
        "The middle of a life, and a part of a canvas and of a batch.",
        channels=3,
        filters=SOBEL,
        seed=LARGE - 5,
        first_step=1000,
        origin=(1000, 2**32 - 3),
        first_sample=9,
        scale=0.5,
    ),
    "rollout_12_one_cell": rolled("A canvas of one cell is its own neighbour.", shape=(3, 1, 1), scale=0.125),
    "rollout_13_reflect": rolled(
        "Beyond the canvas are the cells before its edge, mirrored at the outermost.",
        channels=3,
        padding="reflect",
        filters=("identity", "sobel_x5/8", "sobel_y/8"),
        scale=0.5,
    ),
    "rollout_14_replicate": rolled(
        "Beyond the canvas is its outermost cell.",
        channels=3,
        padding="replicate",
        filters=SOBEL,
        maximum_window=3,
        scale=0.5,
    ),
    "rollout_15_alive_before": rolled(
        "Alive before the update alone; nothing lives beyond the edges of a torus.",
        alive_channel=3,
        alive_threshold=0.25,
        alive_mask="before",
        alive_padding="zero",
        filters=SOBEL,
        scale=0.5,
    ),
    "rollout_16_alive_after": rolled(
        "Alive after the update alone.", alive_channel=3, alive_threshold=0.25, alive_mask="after", filters=SOBEL
    ),
    "rollout_17_alive_update": rolled(
        "What was not alive is not updated, and stays.",
        alive_channel=3,
        alive_threshold=0.25,
        alive_mask="update",
        filters=SOBEL,
        scale=0.5,
    ),
    "rollout_18_activations": rolled(
        "Two hidden layers of different activations, and the update's own, divided.",
        channels=3,
        hidden=(6, 5),
        filters=SOBEL,
        activation=("gelu", "elu"),
        update_activation="tanh/2",
        scale=0.5,
    ),
    "rollout_19_no_hidden_layer": rolled(
        "No hidden layer, and the update takes the state's place.",
        hidden=(),
        residual=False,
        update_activation="leaky_relu(0.25)",
        scale=0.5,
    ),
    "rollout_20_clamp": rolled("The state is cut to a range.", clamp=(-0.25, 0.375), filters=SOBEL, scale=0.5),
    "rollout_21_by_channel": rolled(
        "Every channel fires for itself, in the middle of a life.",
        channels=3,
        filters=SOBEL,
        fire_shared=(),
        frozen=1,
        first_step=5,
        scale=0.5,
    ),
    "rollout_22_noise": rolled(
        "Normal numbers on the state before it is perceived, and on the update.",
        channels=3,
        filters=SOBEL,
        frozen=1,
        state_noise=0.125,
        update_noise=0.25,
        scale=0.5,
    ),
    "rollout_23_learned_filters": rolled(
        "Two learned filters of every channel, perceived after a fixed one of 5 x 5; edges are mirrored.",
        channels=3,
        padding="reflect",
        filters=("sobel_x5/8",),
        learned_filters=2,
        frozen=1,
        scale=0.5,
    ),
    "rollout_24_learned_alone": rolled(
        "Learned filters alone, of every sample its own, before the local maxima.",
        shape=(2, 4, 5),
        channels=3,
        hidden=(4,),
        padding="zero",
        filters=(),
        learned_filters=2,
        maximum_window=3,
        per_sample=True,
        scale=0.5,
    ),
    "rollout_25_frames": rolled(
        "Every cell is turned and scaled by a frame of its own, on a torus.",
        shape=(1, 5, 6),
        frames=True,
        output_bias=False,
    ),
    "rollout_26_frames_of_a_large_filter": rolled(
        "Frames turn pairs of filters in whatever order they are; edges are mirrored.",
        shape=(1, 5, 5),
        channels=3,
        padding="reflect",
        filters=("sobel_y5/8", "sobel_x", "identity", "laplacian/8", "sobel_y", "sobel_x5/8"),
        frames=True,
        scale=0.125,
    ),
}


# A rule that nobody dies of, and that cuts nothing.
FREE = {"alive_channel": None, "alive_threshold": 0.1, "alive_mask": "both", "alive_padding": None, "clamp": None}


def margin(vector: Vector) -> float:
    """Finds how near the nearest decision of a rollout is, in float64: hidden units, the alive mask, local maxima."""
    x, weights, rates, _ = conformance.inputs(vector)
    frame = conformance.frames(vector)
    rule, near = vector.rule, [math.inf]
    for n in range(vector.steps):
        where = vector.where | {"first_step": vector.where["first_step"] + n, "frame": frame}
        seen = reference.rollout(x, weights, replace(rule, **FREE, fire_rate=0.0), 1, **where)
        kernels, layers = reference.split(weights, rule)
        y = reference.perceive(seen, rule, kernels, None if frame is None else frame[None])  # with its noise
        if rule.maximum_window is not None:
            near.append(_gap(x, rule))
        for (weight, bias), activation in zip(layers, rule.activations, strict=True):
            y = reference._layer(y, weight, bias, "fp32")
            if activation.name in ("relu", "leaky_relu"):
                near.append(y.abs().min().item())
            y = activation(y)
        free = replace(rule, **FREE)
        # What was put to death or cut is nowhere near, so what came before is looked at.
        free = reference.rollout(x, weights, free, 1, fire_rate=rates, **where)
        if rule.alive_channel is not None:
            for state in (x, free):
                alpha = reference._local_maximum(state[:, rule.alive_channel, None], 3, rule.padding)
                near.append((alpha - rule.alive_threshold).abs().min().item())
        for bound in rule.clamp or ():
            gaps = (free - bound).abs()
            near.append(gaps[gaps > 0].min().item())  # one that sat there and did not fire is exactly there
        x = reference.rollout(x, weights, rule, 1, fire_rate=rates, **where)
    return min(near)


def _gap(x, rule):
    """Finds the smallest distance of the two largest numbers of a window; equal ones are not near, they are equal."""
    padded = reference._pad(x, rule.maximum_window // 2, rule.padding, value=-1e9)
    windows = F.unfold(padded, rule.maximum_window).unflatten(1, (x.shape[1], -1))
    two = windows.topk(2, dim=2).values
    gaps = two[:, :, 0] - two[:, :, 1]
    return gaps[gaps > 0].min().item()


def answered(vector: Vector) -> Vector:
    """Adds the answers, for the first salt whose decisions are clear."""
    if vector.salt is not None:
        vector = next(v for salt in range(1, 10000) if margin(v := replace(vector, salt=salt)) > MARGIN)
    answers = {}
    for name, value in conformance.run(vector, "reference", torch.device("cpu"), torch.float64).items():
        units, largest = BACKWARD_UNITS if name.startswith("grad") else FORWARD_UNITS, value.abs().max().item()
        cause = f"float32: {units} roundings (2**-24) of the largest number, {largest:.3g}, after {vector.steps} steps"
        tolerance = float(f"{units * UNIT * largest:.3g}")
        if vector.salt is None:
            noisy = vector.rule.state_noise > 0 or vector.rule.update_noise > 0
            tolerance = 5e-7 if noisy else 0.0
            cause = "float32: half a spacing of 1 + e, and the digits here" if noisy else "a bit is right or wrong"
        answers[name] = {
            "tolerance": tolerance,
            "cause": cause,
            "shape": list(value.shape),
            "values": [float(f"{number:.{DIGITS}g}") + 0.0 for number in value.flatten().tolist()],
        }
    return replace(vector, answers=answers)


def page(vector: Vector) -> str:
    """Writes a vector as JSON, a field a line."""
    fields = {name: value for name, value in vars(vector).items() if name not in ("name", "answers")}
    fields["rule"] = asdict(vector.rule)
    fields["where"] = dict(vector.where) | {"seed": hex(vector.where["seed"])}  # JSON's numbers may have 53 bits
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    answers = []
    for name, answer in vector.answers.items():
        parts = ",\n".join(f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in answer.items())
        answers.append(f"    {json.dumps(name)}: {{\n{parts}\n    }}")
    lines.append('  "answers": {\n' + ",\n".join(answers) + "\n  }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(folder: Path) -> None:
    """Writes all vectors to a folder, in place of those that are there."""
    for old in folder.glob("*.json"):
        old.unlink()
    for name, question in QUESTIONS.items():
        (folder / f"{name}.json").write_text(page(answered(question)), encoding="utf-8")


def main() -> None:
    """Writes the vectors, and says how much of the tolerances the backends of this machine use."""
    write(conformance.FOLDER)
    for backend in ("reference", *(name for name, kind in backends.BACKENDS.items() if kind.DEVICE == "cpu")):
        for vector in conformance.load_all():
            outcome = conformance.check(vector, backend, torch.device("cpu"))
            print(f"{vector.name:32} {backend:10} {outcome.share:.3f} {outcome.answer} {outcome.trouble or ''}")


if __name__ == "__main__":
    main()
