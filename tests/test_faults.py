"""Damaged files of every kind are read, or refused in a sentence that names them, before memory is taken. See also
bench/faults, which tries thousands."""

import json
import os
import random
import re
import resource
from pathlib import Path

import fresh
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.faults import files
from bench.faults.mutate import mutated
from nca_fast import NCA, Rule, checkpoint, rollout
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.state_file import StateFile
from nca_fast.systems.vae.model import VAENCA

FINE = {"read", "refused", "long", "memory"}
CASES = {"model": 80, "vae": 40, "state": 60, "journal": 60, "band": 12, "log": 16, "training": 24, "pictures": 12}


@pytest.fixture(scope="module")
def specimens(tmp_path_factory):
    made = files.specimens(tmp_path_factory.mktemp("specimens"))
    return {name: (specimen, files.folder_of(specimen)) for name, specimen in made.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused(specimens, name):
    specimen, whole = specimens[name]
    assert files.outcome(specimen, whole[specimen.path], whole) == ("read", "")
    happened = set()
    for number in range(CASES[name]):
        content = mutated(whole[specimen.path], specimen.kind, random.Random(number))
        with files.limits(files.SECONDS):
            what, said = files.outcome(specimen, content, whole)
        assert what in FINE, (number, what, said)
        happened.add(what)
    assert "refused" in happened


def rewritten(path, change, tensors=None):
    """Changes what a safetensors file says, and its tensors."""
    metadata = checkpoint.load_metadata(path)
    change(metadata)
    save_file(tensors or load_file(path), path, metadata={checkpoint.HEADER_KEY: json.dumps(metadata)})


def rule_of(metadata, **fields):
    metadata["nca"]["rule"] = json.dumps(json.loads(metadata["nca"]["rule"]) | fields)


@pytest.mark.parametrize("hidden", [[24000, 24000], [10**9], [2**62, 2**62], [1, 1, 1]])
def test_a_small_model_that_asks_for_much_memory_takes_none(specimens, hidden):
    """24000 x 24000 weights are 2.3 GB, which the file of a few KB does not have."""
    specimen, whole = specimens["model"]
    files._put_back(specimen.path.parent, whole)
    rewritten(specimen.path, lambda metadata: rule_of(metadata, hidden=hidden))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="model.safetensors must (hold the tensor 'layers.0.|describe an automaton)"):
        NCA.from_pretrained(specimen.path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize(("name", "field"), [("model", "hidden"), ("vae", "decoder"), ("vae", "encoder")])
def test_a_small_model_that_asks_for_many_layers_makes_none(specimens, name, field, monkeypatch):
    """100,000 layers of one unit are 0.5 GB of modules, and half a minute."""
    specimen, whole = specimens[name]
    files._put_back(specimen.path.parent, whole)
    made, register = [], torch.nn.Module.register_parameter
    monkeypatch.setattr(torch.nn.Module, "register_parameter", lambda *of: (made.append(of), register(*of)))
    layer = [8, 1, 1, 0, False] if field == "encoder" else 1

    def change(metadata):
        if name == "model":
            rule_of(metadata, **{field: [layer] * 1000})
        else:
            metadata["vae"]["architecture"][field] = [layer] * 1000

    rewritten(specimen.path, change)
    with pytest.raises(ValueError, match="model.safetensors must describe a.*its layers must have their tensors in"):
        (NCA if name == "model" else VAENCA).from_pretrained(specimen.path)
    assert len(made) < 100
    files._put_back(specimen.path.parent, whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alive_threshold": ""}, "'alive_threshold' of a rule must be a finite number, but is \"\""),
        ({"alive_threshold": [1]}, "'alive_threshold' of a rule must be a finite number"),
        ({"filters": [{"name": "x", "scale": 1}]}, r"'filters' of a rule\[0\] must have the field 'taps'"),
        ({"hidden": "x"}, "'hidden' of a rule must be a list"),
        ({"fire_rate": True}, "'fire_rate' of a rule must be a finite number, but is true"),
        ({"hidden_bias": "no"}, "'hidden_bias' of a rule must be true or false"),
    ],
)
def test_a_rule_names_the_field_and_the_model_its_file(specimens, fields, message):
    specimen, whole = specimens["model"]
    files._put_back(specimen.path.parent, whole)
    rewritten(specimen.path, lambda metadata: rule_of(metadata, **fields))
    with pytest.raises(
        ValueError, match=f"model.safetensors must describe an automaton of one rule, but does not: .*{message}"
    ):
        NCA.from_pretrained(specimen.path)


@pytest.mark.parametrize("name", ["model", "vae"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_weights_are_floating_point_of_a_kind_that_is_known(specimens, name, dtype):
    specimen, whole = specimens[name]
    files._put_back(specimen.path.parent, whole)
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(specimen.path).items()}
    rewritten(specimen.path, lambda metadata: None, tensors)
    with pytest.raises(ValueError, match=r"model.safetensors must hold the tensor .* in one of F64, F32, F16, BF16"):
        (NCA if name == "model" else VAENCA).from_pretrained(specimen.path)


def test_weights_of_16_bits_are_read(specimens):
    specimen, whole = specimens["model"]
    files._put_back(specimen.path.parent, whole)
    expected = load_file(specimen.path)
    rewritten(specimen.path, lambda metadata: None, {name: tensor.bfloat16() for name, tensor in expected.items()})
    for name, tensor in NCA.from_pretrained(specimen.path).state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].bfloat16().float())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("null", "must be a JSON object, but is null"),
        ("[]", r"must be a JSON object, but is \[\]"),
        ("1", "must be a JSON object, but is 1"),
        ("[" * 3000, "must be JSON, but is (nested too deeply|not)"),
        ('{"step": -5}', "'step' of .* must be from 0 to 4294967295, but is -5"),
        ('{"step": 1.5}', "'step' of .* must be an integer, but is 1.5"),
        ('{"step": "x"}', "'step' of .* must be an integer"),
        ('{"step": true}', "'step' of .* must be an integer"),
    ],
)
def test_what_a_state_says_is_checked(tmp_path, header, message):
    path = tmp_path / "a.safetensors"
    save_file({"state": torch.zeros(4, 3, 5)}, path, metadata={checkpoint.HEADER_KEY: header})
    with pytest.raises(ValueError, match=message) as caught:
        StateFile(path)
    assert "a.safetensors" in str(caught.value)


@pytest.mark.parametrize("offsets", [[-8, 232], [0, 2**63], [8, 248], [0, 232]])
def test_a_state_lies_where_its_file_has_room(tmp_path, offsets):
    path = tmp_path / "a.safetensors"
    entry = {"dtype": "F32", "shape": [4, 3, 5], "data_offsets": offsets}
    text = json.dumps({"state": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(240))
    with pytest.raises(ValueError, match="state .*a.safetensors must be complete, but it is truncated or damaged"):
        StateFile(path)


def test_a_state_that_is_too_old_is_refused_before_anything_is_computed(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"state": torch.zeros(4, 3, 5)}, path, metadata={checkpoint.HEADER_KEY: json.dumps({"step": 2**32 - 2})})
    nca = NCA(Rule(channels=4, hidden=(2,)))
    Canvas(Scene(nca, 3, 5, 2, config=CanvasConfig(start=str(path))))
    with pytest.raises(ValueError, match="must have taken at most 4294967293 steps for 3 to follow, but 'step' says"):
        Canvas(Scene(nca, 3, 5, 3, config=CanvasConfig(start=str(path))))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stage", 65537, "'stage' of the journal must be from 0 to 0, but is 65537"),
        ("stage", -1, "'stage' of the journal must be from 0 to 0"),
        ("steps_per_pass", False, r"'steps_per_pass' of 'plans' of the journal\[0\] must be an integer, but is false"),
        ("steps_per_pass", 0, "'steps_per_pass' of plan 0 must be from 1"),
        ("steps_per_pass", 1, "'halo' of plan 0 must be 1, but is 2"),
        ("strip_rows", 10**12, "'strip_rows' of plan 0 must be from 1 to 12"),
        ("halo", 0, "'halo' of plan 0 must be 2, but is 0"),
        ("in_memory", True, "'in_memory' of plan 0 must be false"),
        ("whole", True, "'in_memory' of plan 0 must be true where 'whole' is"),
        ("step", 5, "'step' of 'position' must be from 0 to 4, but is 5"),
        ("pass_steps", 3, "'pass_steps' of 'position' must be from 0 to 2"),
        ("above", 3, "'above' of 'position' must be from 0 to 2"),
        ("row", 1, "'row' of 'position' must be from 0 to 0"),
        ("base", 10**9, "'base' of 'position' must be from 0 to 20"),
        ("base", 1, "'digest' does not belong to the other fields"),
        ("digest", None, "'digest' of the journal must be a string"),
    ],
)
def test_every_field_of_a_journal_is_checked(specimens, field, value, message):
    specimen, whole = specimens["journal"]
    page = json.loads(whole[specimen.path])
    holder = next(part for part in (page, page["position"], page["plans"][0]) if field in part)
    holder[field] = value
    what, said = files.outcome(specimen, json.dumps(page).encode(), whole)
    assert what == "refused" and "wall.png.journal must be the journal of a run" in said
    assert re.search(message, said), said


@pytest.mark.parametrize(("content", "said"), [(None, "there is none"), (b"cut", "it has 3 bytes and not ")])
def test_a_state_that_is_gone_or_cut_sends_nobody_to_resume(specimens, content, said):
    specimen, whole = specimens["band"]
    files._put_back(specimen.path.parent, whole)
    specimen.path.unlink()
    if content is not None:
        specimen.path.write_bytes(content)
    with pytest.raises(ValueError, match=f"wall.png.state must be the state .*{said}.* begin anew, without --resume"):
        specimen.open()
    files._put_back(specimen.path.parent, whole)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_samples_are_numbered_within_a_word(backend):
    """The last legal first_sample agrees with single samples; one more is refused, in every backend."""
    nca, x = NCA(Rule(channels=4, hidden=(5,)), init_gain=0.5), torch.randn(3, 4, 5, 6)
    where = {"seed": 9, "first_step": 2**32 - 2, "origin": (2**32 - 2, 2**32 - 3), "backend": backend}
    together = rollout(x, nca.weights, nca.rule, 2, first_sample=2**32 - 3, **where)
    alone = [
        rollout(x[i : i + 1], nca.weights, nca.rule, 2, first_sample=2**32 - 3 + i, **where | {"backend": "reference"})
        for i in range(3)
    ]
    # Other masks differ by 0.1; rounding of two steps: worst seen 2.4e-7.
    assert float((together - torch.cat(alone)).abs().max()) < 1e-5
    with pytest.raises(ValueError, match="first_sample must be from 0 to 4294967293, but got 4294967294"):
        rollout(x, nca.weights, nca.rule, 2, first_sample=2**32 - 2, **where)
    with pytest.raises(ValueError, match=r"origin must be \(row, column\), but got 3"):
        rollout(x, nca.weights, nca.rule, 2, **where | {"origin": 3})


FORK = """
import os, torch
from nca_fast import NCA
torch.set_num_threads(2)
nca, x = NCA.preset("texture"), torch.randn(2, 12, 64, 64)
nca(x, 2, seed=0)
child = os.fork()
if not child:
    nca(x, 2, seed=0)
    os._exit(torch.get_num_threads())
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_a_rollout_goes_on_with_one_thread():
    root = Path(files.__file__).parents[2]
    assert fresh.run(["-c", FORK], cwd=root).returncode == 1
