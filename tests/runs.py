"""Folders of training runs, to compare."""

import json

import torch

from nca_fast import checkpoint


def logged(folder):
    """The lines of the log, without what hangs on the clock."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "cell_steps_per_second")} for line in lines]


def assert_same_run(folder, expected):
    """Weights, optimizer, pool, pictures, films and losses are the same to the bit, and nothing else was left."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    for path in expected.iterdir():
        if path.suffix == ".safetensors":
            tensors, _ = checkpoint.load(folder / path.name)
            wanted, _ = checkpoint.load(path)
            assert tensors.keys() == wanted.keys()
            for key in wanted:
                assert torch.equal(tensors[key], wanted[key]), f"{key} of {path.name}"
        elif path.name == "log.jsonl":
            assert logged(folder) == logged(expected)
        else:
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
