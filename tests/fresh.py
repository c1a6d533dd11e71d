"""Fresh Python processes without the two seconds that importing torch takes: forked from one that has done only that.

What a library reads as it is loaded (OMP_WAIT_POLICY, MALLOC_PERTURB_) is that of the parent, so a test of such a thing
starts a process of its own.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PARENT = """
import torch, json, os, runpy, signal, sys

for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        break
    print(child, flush=True)
else:
    sys.exit()
signal.alarm(300)
for number, path in enumerate((os.devnull, *request["said"])):
    file = os.open(path, os.O_RDWR | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
sys.stdin = open(0)
os.environ.clear()
os.environ.update(request["environment"])
os.chdir(request["folder"])
kind, *sys.argv = request["arguments"]
sys.path[0] = ""
sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
if kind == "-c":
    code, sys.argv[0] = sys.argv[0], kind
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif kind == "-m":
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv.insert(0, kind)
    sys.path[0] = os.path.dirname(os.path.abspath(kind))
    runpy.run_path(kind, run_name="__main__")
"""
_parents: list[subprocess.Popen] = []


def _ask(**request):
    """The parent's answer, a number; it is started for the first question."""
    if not _parents:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # no thread that a fork would lose
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        _parents.append(subprocess.Popen([sys.executable, "-c", PARENT], **pipes))
        atexit.register(_parents[0].communicate)
    (parent,) = _parents
    parent.stdin.write(json.dumps(request) + "\n")
    parent.stdin.flush()
    return int(parent.stdout.readline())


class Process:
    """As subprocess.Popen, of Python with arguments as for its command line: -c, -m or a script."""

    def __init__(self, arguments, *, cwd=None, env=None, out=None):
        self.args, self.returncode = [*map(str, arguments)], None
        self.said = [str(out or _new_file()), _new_file()]
        request = {"environment": dict(os.environ if env is None else env), "folder": str(cwd or os.getcwd())}
        self.pid = _ask(arguments=self.args, said=self.said, **request)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        """Its exit status; minus the number of the signal that ended it."""
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid)
        return self.returncode


def run(arguments, *, check=False, **options):
    """As subprocess.run, with what was said as text."""
    process = Process(arguments, **options)
    done = subprocess.CompletedProcess(process.args, process.wait(), *(Path(f).read_text() for f in process.said))
    assert not check or done.returncode == 0, done.stderr
    return done


def _new_file():
    file, path = tempfile.mkstemp()
    os.close(file)
    atexit.register(os.remove, path)
    return path


TOGETHER = """
import os, runpy, socket, sys
{imports}

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
told = {{"WORLD_SIZE": {count}, "LOCAL_WORLD_SIZE": {count}, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}}
os.environ.update({{name: str(value) for name, value in told.items()}}, TORCHELASTIC_RUN_ID="test")
children = []
for rank in range({count}):
    children.append(os.fork())
    if not children[-1]:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        sys.argv = {script!r}
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def together(count, script, imports="", **options):
    """As `torchrun --nproc-per-node count script`, of processes that were told the same and have imports in common.

    The real one is an interpreter more, and each of its processes imports for itself.
    """
    code = TOGETHER.format(count=count, imports=imports, script=[*map(str, script)])
    return run(["-c", code], check=True, **options)
