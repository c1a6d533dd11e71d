"""Trainings of the five systems from Python, in short, and processes that are killed in the midst of one."""

import os
import signal
from pathlib import Path

import fresh

import nca_fast
from nca_fast.systems import TASKS
from nca_fast.training import listeners
from nca_fast.training.session import run_training


def train(name, config, out, *, progress=False, **sources_and_options):
    """Trains a system; keyword arguments that its sources have go there, the others to `run_training`."""
    system = TASKS[name].system
    sources = {
        key: sources_and_options.pop(key) for key in system.Sources.__dataclass_fields__ if key in sources_and_options
    }
    return run_training(system, system.Sources(**sources), out, config, progress=progress, **sources_and_options)


def interrupted_after(iteration, monkeypatch):
    """Presses Ctrl-C in this process when an iteration has been logged."""
    original = listeners.JsonLog.__call__

    def interrupt(log, report):
        original(log, report)
        if report.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(listeners.JsonLog, "__call__", interrupt)


def train_texture(config, image, out, **options):
    return train("texture", config, out, image=image, **options)


def train_style(config, style, content, out, **options):
    return train("style", config, out, style=style, content=content, **options)


def train_clip(config, prompts, content, out, **options):
    return train("clip", config, out, prompts=prompts, content=content, **options)


def train_growing(config, image, out, **options):
    return train("grow", config, out, image=image, **options)


def train_vae(config, dataset, out, **options):
    return train("vae", config, out, dataset=dataset, **options)


def killed_while_writing(cases):
    """SIGKILL strikes processes when a file is written for the n-th time and about to replace its former version.

    All are forked from one fresh process, which has done nothing but imports: these take longer than the trainings,
    above all that of torch._dynamo by every optimizer.

    Args:
        cases: (name of the file, n, what the process runs: a call of a function of this module with its settings).
    """
    root, here = Path(nca_fast.__file__).parents[1], Path(__file__).parent
    script = f"""
import os, signal, sys, torch._dynamo
sys.path.insert(0, {str(here)!r})
from nca_fast.systems.style import StyleConfig
from nca_fast.systems.texture import TextureConfig
from trainings import train_style, train_texture

def run(name, version, call):
    replace, count = os.replace, 0
    def strike(source, target):
        nonlocal count
        count += os.path.basename(target) == name
        if count == version:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = strike
    eval(call)

for case in {cases!r}:
    child = os.fork()
    if child == 0:
        run(*case)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, case
"""
    fresh.run(["-c", script], cwd=root, check=True)
