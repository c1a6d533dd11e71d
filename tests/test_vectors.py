"""Known answers: backends give them, the files are what the script writes, and `check` sees a wrong one."""

import json
import math
from dataclasses import replace

import plain_automaton
import pytest
import torch

from bench import vectors as script
from nca_fast import Rule, backends, cli, conformance
from nca_fast.rule import ALIVE_MASKS, PADDINGS

CPU = torch.device("cpu")
PATHS = sorted(conformance.FOLDER.glob("*.json"))
NAMES = [path.stem for path in PATHS]
VECTORS = dict(zip(NAMES, conformance.load_all(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["reference", "convolutions", "cpu"])
def test_backends_on_the_cpu(name, backend):
    """Worst seen: 0.29 of a tolerance by the reference, 0.38 by the C++ kernel."""
    outcome = conformance.check(VECTORS[name], backend, CPU)
    assert outcome.trouble is None and outcome.share <= 1, outcome


@pytest.mark.parametrize("name", NAMES)
def test_triton(name, monkeypatch):
    """Worst seen in the interpreter: 0.38. There gradients are asked for twice: test_triton has the others."""
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    from triton_rollouts import DEVICE, INTERPRETED, small_programs

    small_programs(monkeypatch)
    vector = VECTORS[name]
    if INTERPRETED and name not in ("rollout_01_texture", "rollout_25_frames"):
        vector = replace(vector, gradients=False, answers={"y": vector.answers["y"]})
    outcome = conformance.check(vector, "triton", torch.device(DEVICE))
    assert outcome.trouble is None and outcome.share <= 1, outcome


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_program_that_has_only_read_the_readme(path):
    """Python's own float64, hence the digits that were written: 10 of each number."""
    page = json.loads(path.read_text(encoding="utf-8"))
    found, exact = plain_automaton.answer(page), page["answers"]["y"]["values"]
    largest = max(map(abs, exact))
    assert all(abs(f - e) <= 1e-9 * largest for f, e in zip(found, exact, strict=True))


def test_the_files_are_what_the_script_writes(tmp_path):
    """But for the last of their digits, in which PyTorch's float64 may differ from machine to machine."""
    script.write(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*")) == [path.name for path in PATHS]
    for path in PATHS:
        made, kept = (json.loads((folder / path.name).read_text()) for folder in (tmp_path, conformance.FOLDER))
        assert made["answers"].keys() == kept["answers"].keys()
        for name, answer in kept["answers"].items():
            values = torch.tensor([made["answers"][name].pop("values"), answer.pop("values")], dtype=torch.float64)
            assert (values[0] - values[1]).abs().max() <= 1e-9 * values.abs().max(), (path.name, name)
        assert made == kept


def test_they_speak_of_what_they_name():
    rules = [vector.rule for vector in VECTORS.values()]
    for field in ("frozen", "maximum_window", "alive_channel", "learned_filters"):
        assert any(getattr(rule, field) for rule in rules), field
    assert any(len(rule.hidden) == 2 for rule in rules) and {rule.padding for rule in rules} == set(PADDINGS)
    assert {rule.alive_mask for rule in rules} == set(ALIVE_MASKS) and any(rule.alive_padding for rule in rules)
    for field in ("fire_shared", "activation", "update_activation", "residual", "clamp", "state_noise", "update_noise"):
        assert any(getattr(rule, field) != getattr(Rule(), field) for rule in rules), field
    assert any(rule.hidden == () for rule in rules)
    for name in ("per_sample", "gradients", "frames"):
        assert any(getattr(vector, name) for vector in VECTORS.values()), name
    assert sum(vector.salt is None for vector in VECTORS.values()) == 13 and len(VECTORS) == 39
    assert all(path.stat().st_size < 9000 for path in PATHS)


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A folder with a mask and a rollout, of which one answer may be spoiled."""

    shipped = conformance.FOLDER

    def put(spoil=None, answer="y"):
        for name in ("mask_01_seed", "rollout_12_one_cell"):
            page = json.loads((shipped / f"{name}.json").read_text())
            if name.startswith(spoil or "-"):
                kept = page["answers"][answer]
                kept["values"][2] += 2 * kept["tolerance"] or 1.0
            (tmp_path / f"{name}.json").write_text(json.dumps(page))
        monkeypatch.setattr(conformance, "FOLDER", tmp_path)

    return put


@pytest.fixture
def without_the_interpreter(monkeypatch):
    """conftest.py switches it on, and so the Triton kernels would be asked, slowly."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("without_the_interpreter")
class TestCheck:
    def test_all_is_right(self, few, capsys):
        few()
        assert cli.main(["check"]) == 0
        shown = capsys.readouterr().out
        assert shown.count("right (") == 6 and "WRONG" not in shown
        assert shown.endswith("6 of 6 are right.\nnext: nca-fast profile\n      nca-fast demo\n")

    @pytest.mark.parametrize(("spoil", "answer"), [("mask", "y"), ("rollout", "y"), ("rollout", "grad_w0")])
    def test_a_wrong_answer(self, few, capsys, spoil, answer):
        """One number of one answer, by twice its tolerance; or one cell of a mask."""
        few(spoil, answer)
        assert cli.main(["check"]) == 1
        shown = capsys.readouterr().out
        assert shown.count("WRONG (") == shown.count("right (") == 3 and "3 of 6 are right." in shown
        assert f"cpu on cpu: {answer} must be within its tolerance, but is" in shown

    def test_as_json(self, few, capsys):
        few("mask")
        assert cli.main(["check", "--json"]) == 1
        page = json.loads(capsys.readouterr().out)
        rights = {(o["vector"], o["backend"]): o["right"] for o in page["outcomes"]}
        assert page["right"] is False and rights["mask_01_seed", "cpu"] is False
        assert rights["rollout_12_one_cell", "cpu"] is rights["rollout_12_one_cell", "reference"] is True
        few()
        assert cli.main(["check", "--json"]) == 0
        page = json.loads(capsys.readouterr().out)
        assert page["right"] is True and "take states on a GPU" in page["not_asked"]["triton"]

    def test_a_backend_that_cannot_be_built_is_passed_over(self, few, capsys, monkeypatch):
        few()
        monkeypatch.setattr(backends, "trouble", lambda name: "the C++ kernel needs a compiler.")
        assert cli.main(["check"]) == 0
        shown = capsys.readouterr().out
        assert "cpu was not asked: the C++ kernel needs a compiler." in shown and "4 of 4 are right." in shown

    def test_a_backend_that_gives_up_is_wrong(self, few, capsys, monkeypatch):
        few()
        monkeypatch.setattr(backends.kernels("cpu"), "advance", lambda *args: 1 / 0)
        assert cli.main(["check"]) == 1
        shown = capsys.readouterr().out
        assert "WRONG (no answer)" in shown and "cpu on cpu: ZeroDivisionError: division by zero" in shown


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_wrong(value, monkeypatch):
    vector = VECTORS["rollout_12_one_cell"]
    found = conformance.run(vector, "reference", CPU)
    found["grad_x"][0, 0, 0, 0] = value
    monkeypatch.setattr(conformance, "run", lambda *args: found)
    outcome = conformance.check(vector, "reference", CPU)
    assert not outcome.right and outcome.answer == "grad_x"


def test_nearly_equal_cells_are_near(monkeypatch):
    """Of the margin that the script keeps: decisions that rounding could change are seen."""
    vector = VECTORS["rollout_05_local_maximum"]
    assert script.margin(vector) > script.MARGIN
    x, weights, rates, grad = conformance.inputs(vector)
    x[0, 0, 2, 2], x[0, 0, 2, 3] = 3.0, 3.0 + 1e-6
    monkeypatch.setattr(conformance, "inputs", lambda vector: (x, weights, rates, grad))
    assert script.margin(vector) < 2e-6
    alive = replace(vector, rule=replace(vector.rule, maximum_window=None, alive_channel=0, alive_threshold=3.0))
    monkeypatch.setattr(conformance, "inputs", lambda vector: (x, [(w[:, :9], b) for w, b in weights], rates, grad))
    assert script.margin(alive) < 2e-6
