"""The held set: that it holds what it should, and nothing that a default was chosen by."""

import time

import pytest
import torch

from bench import clip_prompts
from bench.held_set import jobs, textures
from bench.held_set.__main__ import KIND_NAMES, table
from bench.held_set.sentences import SENTENCES
from bench.held_set.sprites import SPRITES, sprite
from nca_fast.features.clip import SMALL_CLIP
from nca_fast.training import stopwatch


def test_counts():
    assert {kind: len(names) for kind, names in jobs.KINDS.items()} == {
        "textures": 12, "styles": 4, "sprites": 6, "sentences": 12, "pictures": 2
    }  # fmt: skip
    assert tuple(jobs.KINDS) == KIND_NAMES and len(textures.PHOTOGRAPHS) == 4
    assert not set(textures.CONTENT) & {f"skimage:{name}" for name in textures.PHOTOGRAPHS}


@pytest.mark.parametrize("name", ["coins", "page", "foliage", "weave", "blobs", "marble"])
def test_textures_are_pictures_and_the_same_each_time(name):
    picture = textures.TEXTURES[name]()
    assert picture.shape[0] == 3 and min(picture.shape[1:]) >= 100 and picture.is_contiguous()
    assert picture.dtype == torch.float32 and 0 <= picture.min() < picture.max() <= 1
    assert torch.equal(picture, textures.TEXTURES[name]())


@pytest.mark.parametrize("name", SPRITES)
def test_sprites_have_transparency(name):
    alpha = sprite(name).getchannel("A")
    assert alpha.size == (40, 40) and alpha.getextrema() == (0, 255)
    covered = sum(value > 128 for value in alpha.tobytes()) / 1600
    assert 0.2 < covered < 0.8


def test_sentences_are_new_and_of_known_words():
    known = set((SMALL_CLIP / "words.txt").read_text().split())
    assert all(set(promise.prompt.split()) <= known for promise in SENTENCES)
    assert not {promise.prompt for promise in SENTENCES} & {promise.prompt for promise in clip_prompts.PROMISES}


def test_a_picture_of_one_colour_is_measured():
    assert clip_prompts.measure(torch.zeros(3, 16, 16)).contrast == 0


def test_the_loop_counts_cpu_seconds():
    with jobs.cpu_clock():
        begin = stopwatch.time.perf_counter()
        time.sleep(0.2)
        assert stopwatch.time.perf_counter() - begin < 0.15  # sleeping takes none; tens of microseconds were seen
    assert stopwatch.time is time


def test_the_table_shows_every_row():
    scored = {"iterations": 7, "score": 0.5, "error": 0.1, "says": True, "times": 2.0, "times_of_spectrum_only": 3.0}
    rows = [
        {"kind": "textures", "name": "coins", "measures": {}, "run_away": 1, "of": 8, **scored},
        {"kind": "textures", "name": "weave", "measures": {}, "run_away": 0, "of": 8, **scored, "says": False},
        {"kind": "sprites", "name": "fish", "failed": "ValueError: no"},
    ]

    class Options:
        label, minutes = "1m", 1.0

    lines = table(rows, Options, {"commit": "abc", "cpu": "a CPU"}).splitlines()
    assert "commit abc" in lines[0]
    assert "| coins | 7 | 0.5 | 0.1 | 2 | 3 | - | 1 of 8 |" in lines
    assert "| weave | 7 | - | - | 2 | 3 | - | 0 of 8 |" in lines
    assert "| fish | ValueError: no |" in lines
