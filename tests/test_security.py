"""What SECURITY.md promises of files from strangers, as far as no other test holds it."""

import ast
import re
from pathlib import Path

import pytest
import torch

from nca_fast import NCA, Rule, cli
from nca_fast.features import clip, vgg
from nca_fast.losses.aesthetic import AestheticHead

ROOT = Path(__file__).parents[1]
# Calls that run what they are given, or load what can.
CODE = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads", "shelve.open"}
CODE |= {"torch.hub.load", "torch.jit.load", "joblib.load", "yaml.load", "dill.load", "runpy.run_path", "__import__"}
SAFE = {"torch.load": "weights_only", "torch.hub.load_state_dict_from_url": "weights_only"}
SAFE |= {"open_clip.create_model": "weights_only"}


def found(text):
    """What of a source runs code, or might: (line, call)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = name in SAFE and given.get(SAFE[name]) != "True"
            if name in CODE or unsafe or given.get("shell") == "True" or given.get("allow_pickle") == "True":
                yield node.lineno, name


def test_no_source_runs_what_it_reads():
    paths = [*(ROOT / "nca_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    calls = [(path.name, *call) for path in paths for call in found(path.read_text(encoding="utf-8"))]
    assert len(paths) > 100 and not calls


@pytest.mark.parametrize(
    "source",
    ["torch.load(path)", "torch.load(path, weights_only=False)", "subprocess.run(x, shell=True)", "pickle.load(file)"]
    + ["np.load(path, allow_pickle=True)", "eval(text)", "open_clip.create_model(name)"],
)
def test_such_a_call_would_be_seen(source):
    assert list(found(source)) and not list(found("torch.load(path, weights_only=True); model.eval()"))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("ending", ["pth", "pt"])
def test_pickles_in_weights_are_refused(tmp_path, ending):
    path = tmp_path / f"trap.{ending}"
    torch.save({"state_dict": Trap(), "weight": Trap()}, path)
    with pytest.raises(ValueError, match=f"trap.{ending}' cannot be read"):
        vgg._read(path)
    with pytest.raises(ValueError, match=f"trap.{ending}.* cannot be read"):
        AestheticHead(path, 512)
    assert clip._tensor_names(str(path)) == set()
    with pytest.raises(pytest.fail.Exception):  # the trap works
        torch.load(path, weights_only=False)


@pytest.mark.parametrize(("system", "fact"), [("texture", "image"), ("style", "style")])
def test_no_path_in_a_model_file_is_followed(tmp_path, system, fact, capsys):
    """A stranger's may name a device that never ends, or a machine that asks for a password."""
    secret = tmp_path / "a b.png"
    secret.mkdir()  # whose reading would be another error
    nca = NCA(Rule(channels=4, hidden=(2,)))
    path = nca.save_pretrained(tmp_path / "run", {"system": system, fact: str(secret), "config": {"picture_steps": 1}})
    assert cli.main(["score", str(path)]) == 2
    said = f"no path that a model file names is followed. {path} names: --reference '{secret}'\n"
    assert capsys.readouterr().err.endswith(said)


def test_every_promise_names_tests_that_there_are():
    promises = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(promises) == 6
    for promise in promises:
        names = re.findall(r"test_\w+\.py", promise)
        assert names and all((ROOT / "tests" / name).exists() for name in names)
