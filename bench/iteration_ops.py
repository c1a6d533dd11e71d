"""What an iteration launches on a GPU beside its rollout, counted without one.

    python -m bench.iteration_ops [--before FILE] [--out FILE]

Every system does iterations on the meta device, whose tensors have shapes and no numbers, along the paths that a GPU
takes: in float16, without NumPy, and with its losses captured (by recordings, `recorded_graphs`). An aten operation
that is no view counts as a launch; most of PyTorch's are one kernel, a sort or a convolution are a few. The rollout,
which has graphs of its own, is left out, and so is the fused optimizer, one or two kernels. `waits` are operations for
whose result the host waits. FILE of --before: the same counts of an earlier commit, to be kept beside.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import torch

from bench.gpu_systems import DISTILL, sources_of, vgg_weights
from bench.harness import RESULTS, header, write_result
from bench.recorded_graphs import Counting, recorded_graphs

CASES = {
    "texture": ("texture", {"batch_size": 4}),
    "texture, the Distill recipe": ("texture", DISTILL),
    "style": ("style", {"early_iterations": 0, "batch_size": 4}),
    "clip": ("clip", {}),
    "grow": ("grow", {}),
    "vae": ("vae", {"batch_size": 16}),
}


def stub_of_the_rollout():
    """A rollout that launches nothing and passes gradients on."""

    class Rollout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *weights):
            ctx.like = [x, *weights]
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx, grad):
            return tuple(torch.empty_like(tensor) for tensor in ctx.like)

    def rollout(x, weights, rule, steps, **options):
        return Rollout.apply(x, *(tensor for pair in weights for tensor in pair if tensor is not None))

    return rollout


def counted(name: str, settings: dict, folder: Path, graphs: bool) -> dict:
    """The launches of an ordinary iteration, in which no state starts afresh."""
    from nca_fast import ops
    from nca_fast.systems import TASKS, clip, style, texture
    from nca_fast.training import capture
    from nca_fast.training.descent import Descent
    from nca_fast.training.optimizers import make_optimizer

    system = TASKS[name].system
    config = system.Config(iterations=9, **settings).resolved()
    work = system(config, system.Sources(**sources_of(name, folder, False)), None, folder)
    half = mock.Mock(return_value=torch.float16)
    with (
        recorded_graphs(),
        mock.patch.object(ops, "rollout", stub_of_the_rollout()),
        mock.patch.object(texture, "network_dtype", half),
        mock.patch.object(style, "network_dtype", half),
        mock.patch.object(clip, "network_dtype", half),
        mock.patch.object(capture, "MOST", capture.MOST if graphs else 0),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        model = work.model().to("meta")
        work.begin(model, None)
        descent = Descent(
            model, make_optimizer(config.optimizer, model, config.learning_rate), work.adjust_gradients, work.remedy
        )
        descent.optimizer.step = lambda: None
        descent.begin(1, config.learning_rate)
        work.step(1, 1, descent)
        with Counting() as counting:
            work.step(2, 2, descent)
    graphs = 2 if graphs else 0  # forward and backward
    row = {"launches": sum(counting.launches.values()) + graphs, "graphs": graphs, "waits": counting.waits}
    return row | {"kinds": dict(sorted(counting.launches.items(), key=lambda item: -item[1]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "iteration_ops.json", help="result file")
    parser.add_argument("--before", type=Path, help="counts of an earlier commit, to be kept in the result")
    options = parser.parse_args()
    result = {"header": header()}
    if options.before is not None:
        result["before"] = json.loads(options.before.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = str(vgg_weights(folder))
        for case, (name, settings) in CASES.items():
            others = {"weights": weights} if settings.get("features") == "vgg16" else {}
            rows = {}
            for how, graphs in (("one by one", False), ("captured", True)):
                rows[how] = counted(name, settings | others, folder, graphs)
            result[case] = rows
            print(case, {how: row["launches"] for how, row in rows.items()}, rows["captured"]["waits"], flush=True)
    write_result(options.out, result)


if __name__ == "__main__":
    main()
