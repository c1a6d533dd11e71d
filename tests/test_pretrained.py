"""Where models come from and go to: folders, the zoo, the hub."""

import json
from types import SimpleNamespace

import pytest
import torch

import nca_fast
from nca_fast import checkpoint, model_card, zoo
from nca_fast.cli import main
from nca_fast.media.images import load_image, save_image
from nca_fast.pretrained import check_model, model_file


def run_cli(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A zoo of two textures and a style, in a folder of its own."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    zoo.names.cache_clear()
    for name, system in (("bark", "texture"), ("bricks", "texture"), ("ink", "style")):
        facts = {"system": system, "command": "by hand", "seconds": 3.0, "steps": 7, "side": 24}
        facts |= {"shown_steps": 7, "card": dict.fromkeys(zoo.CARD, f"of {name}")}
        file = nca_fast.NCA.preset(system).save_pretrained(tmp_path / "made" / name, facts)
        (tmp_path / "zoo").mkdir(exist_ok=True)
        file.rename(tmp_path / "zoo" / f"{name}.safetensors")
        save_image(torch.full((3, 8, 8), 0.5), tmp_path / "zoo" / f"{name}.jpg")
    yield tmp_path / "zoo"
    zoo.names.cache_clear()


def test_automata_of_the_zoo_open_by_name(shelf):
    nca = nca_fast.NCA.from_pretrained("zoo:bark")
    assert nca.rule == nca_fast.NCA.preset("texture").rule
    assert model_file("zoo:ink") == shelf / "ink.safetensors"
    for name, hint in (("zoo:barck", "Did you mean zoo:bark"), ("zoo:", "bark, bricks, ink"), ("zoo:a/../ink", "has")):
        with pytest.raises(ValueError, match=hint):
            nca_fast.NCA.from_pretrained(name)


def test_commands_take_automata_of_the_zoo(shelf, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert run_cli("render", "zoo:bark", "--height", 8, "--width", 9, "--steps", 2, "--out", out) == 0
    assert load_image(out).shape == (3, 8, 9)
    assert run_cli("render", "zoo:none", "--height", 8, "--width", 9, "--steps", 2, "--out", out) == 2
    assert "the zoo has bark, bricks, ink; but got 'none'" in capsys.readouterr().err
    save_image(torch.rand(3, 8, 8), tmp_path / "photo.png")
    assert run_cli("apply", "zoo:ink", tmp_path / "photo.png", "--out", out) == 0  # knows its steps
    graft = ("--graft", "zoo:bricks", "--map", tmp_path / "photo.png")
    assert run_cli("render", "zoo:bark", *graft, "--height", 8, "--width", 8, "--steps", 2, "--out", out) == 0


def test_a_mistyped_folder_gets_a_suggestion(tmp_path):
    for name in ("brick", "grass"):
        nca_fast.NCA.preset("texture").save_pretrained(tmp_path / "runs" / name)
    (tmp_path / "runs" / "bric").mkdir()  # no run
    with pytest.raises(FileNotFoundError, match=f"there is none. Did you mean {tmp_path}/runs/brick[?]$"):
        check_model(tmp_path / "runs" / "brik")
    with pytest.raises(FileNotFoundError, match=f"the runs {tmp_path}/runs/brick, {tmp_path}/runs/grass: name one.$"):
        check_model(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="holds none, and no runs.$"):
        check_model(tmp_path / "runs" / "bric")


def test_the_list_the_card_and_the_pictures(shelf, tmp_path, capsys):
    assert run_cli("zoo") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["zoo:bark", "zoo:bricks", "zoo:ink"]
    assert "of bark" in lines[0] and "style" in lines[2]
    assert run_cli("zoo", "ink", "--out", tmp_path / "ink.png") == 0
    said = capsys.readouterr().out
    assert "learned from  of ink" in said and "by hand" in said and "nca-fast apply zoo:ink" in said
    assert load_image(tmp_path / "ink.png").shape == (3, 8, 8)
    assert run_cli("zoo", "--out", tmp_path / "all.png", "--json") == 0
    assert load_image(tmp_path / "all.png").shape == (3, 8, 3 * 8 + 2 * 8)
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == ["bark", "bricks", "ink"]
    assert run_cli("zoo", "--out", tmp_path / "all.tiff") == 2


def test_names_of_the_hub(tmp_path, monkeypatch):
    """Only hf:user/name asks the hub: a mistyped folder is a missing folder, at once."""
    asked = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    found = nca_fast.NCA.preset("texture").save_pretrained(tmp_path / "found")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: asked.append(name) or found)
    for name in ("user/name", "user/name.v2", "some-user/texture_1.0-b"):
        assert isinstance(nca_fast.NCA.from_pretrained(f"hf:{name}"), nca_fast.NCA)
    assert asked == ["user/name", "user/name.v2", "some-user/texture_1.0-b"]
    with pytest.raises(FileNotFoundError, match=r"Check the path \(the Hugging Face hub's is hf:none/there\)"):
        nca_fast.NCA.from_pretrained("none/there")
    for name in ("runs/none.v2", "user/model.safetensors", "./name", "../name", "/name", "a/b/c", "name"):
        with pytest.raises(FileNotFoundError):
            nca_fast.NCA.from_pretrained(name)
    for name in ("hf:name", "hf:", "hf:a/b/c", "hf:../name", "hf:user/"):
        with pytest.raises(ValueError, match="hf:user/name, but got"):
            nca_fast.NCA.from_pretrained(name)
    assert len(asked) == 3


def test_a_hub_that_fails_is_one_sentence(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(name, file):
        raise LocalEntryNotFoundError("An error happened.\nCheck your connection.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(OSError, match=r"^hf:a/b must be .* An error happened. Check your connection.$"):
        nca_fast.NCA.from_pretrained("hf:a/b")


class Hub:
    """Stands for huggingface_hub.HfApi."""

    calls: list

    def __init__(self, **_):
        Hub.calls = []

    def create_repo(self, name, **options):
        Hub.calls.append((name, options))

    def create_commit(self, name, operations, commit_message):
        Hub.calls.append({o.path_in_repo: o.path_or_fileobj for o in operations})
        return SimpleNamespace(commit_url=f"hub/{name}")


def test_push_uploads_model_card_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    facts = {"system": "grow", "command": "nca-fast grow x.png --out run", "iterations": 5, "seed": 3}
    nca_fast.NCA.preset("growing").save_pretrained(tmp_path, facts)
    save_image(torch.rand(3, 8, 8), tmp_path / "regrowth.png")
    assert run_cli("push", tmp_path, "hf:user/sprite", "--license", "mit", "--private") == 0
    assert "hub/user/sprite" in capsys.readouterr().out
    (name, options), files = Hub.calls
    assert name == "user/sprite" and options == {"private": True, "exist_ok": True}
    assert set(files) == {"model.safetensors", "README.md", "regrowth.png"}
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: nca-fast\nlicense: mit\n")
    for part in (
        "![what it draws](regrowth.png)",
        "nca-fast grow x.png --out run",
        '("hf:user/sprite")',
        "iterations 5",
    ):
        assert part in card
    assert run_cli("push", tmp_path, "sprite") == 2
    monkeypatch.setattr(Hub, "create_repo", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no\nnetwork")))
    assert run_cli("push", tmp_path, "user/sprite") == 2
    said = capsys.readouterr().err
    assert "hf:user/sprite must take the model, but RuntimeError: no network. It needs a network, an account" in said
    (tmp_path / "README.md").write_text("# mine")
    assert run_cli("push", tmp_path, "user/sprite") == 2
    assert "README.md must be a card that nca_fast wrote, or absent" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "# mine"


def test_a_card_says_the_score_if_there_is_one():
    card = model_card.model_card({"provenance": {"system": "texture"}}, "hf:a/b", score=["score 0.5"])
    assert "score 0.5" in card and "texture-synthesis" in card and "license" not in card and "![" not in card


def test_what_a_model_says_is_no_part_of_its_card(tmp_path, monkeypatch, capsys):
    """Of a model that others made; nor is a licence what follows it."""
    command = "nca-fast x\n```\n# Not mine\n````"
    card = model_card.model_card({"provenance": {"command": command, "seed": ["x\n# Not mine"]}}, "hf:a/b")
    assert f"`````\n{command}\n`````\n" in card and card.count("Not mine") == 1
    nca_fast.NCA.preset("growing").save_pretrained(tmp_path, {"command": {"nca-fast": 1}})
    assert run_cli("push", tmp_path, "user/sprite") == 2
    assert f"'command' of 'provenance' of {tmp_path / 'model.safetensors'} must be" in capsys.readouterr().err
    assert run_cli("push", tmp_path, "user/sprite", "--license", "mit\nlanguage: en") == 2
    assert "license must be one word" in capsys.readouterr().err and not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("name", zoo.names())
def test_what_is_shipped(name):
    """A card, a picture, a small file, an automaton that draws something and does not run away at once."""
    card = zoo.card(name)
    assert all(getattr(card, key).strip() for key in zoo.CARD) and card.file.stat().st_size < 100 * 1024
    picture = load_image(card.picture)
    assert picture.shape == (3, 256, 256) and picture.std() > 0.05
    metadata = checkpoint.load_metadata(card.file)
    assert "/" not in json.dumps(metadata["provenance"].get("command"))
    nca = nca_fast.NCA.from_pretrained(f"zoo:{name}")
    image = picture[None, :, :48, :48] if nca.start == "image" else None
    with torch.no_grad():
        state = nca(nca.initial_state(1, 48, 48, image=image), 96, seed=1)
    assert state.abs().max() < 5 and nca.to_rgb(state).std() > 0.03


def test_the_shelf_is_not_empty():
    assert len(zoo.names()) >= 12 and {zoo.card(name).system for name in zoo.names()} == {"texture", "style", "grow"}
