"""What a process on Windows or macOS has not got is taken away: python other_system.py win32|darwin WORK_FOLDER

Python's own library and the packages that we use are imported first, because they know where they are; what is asked
is whether nca_fast does. Then it is imported, and does what a newcomer does.
"""

import os
import sys

system, folder = sys.argv[1:]

import contextlib  # noqa: E402
import mmap  # noqa: E402
import multiprocessing  # noqa: E402, F401
import pathlib  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import sysconfig  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402

import huggingface_hub  # noqa: E402, F401
import imageio_ffmpeg  # noqa: E402, F401
import numpy  # noqa: E402, F401
import PIL.Image  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import tifffile  # noqa: E402, F401
import torch  # noqa: E402
import torch.distributed  # noqa: E402, F401
import torch.utils.cpp_extension  # noqa: E402, F401
import tqdm  # noqa: E402, F401
import tyro  # noqa: E402, F401

POSIX_ONLY = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty", "posix")
NOT_ON_MACOS = (
    *("posix_fadvise", "posix_fallocate", "copy_file_range", "eventfd", "memfd_create", "pipe2", "fdatasync"),
    *("sched_getaffinity", "sched_setaffinity", "splice", "getrandom", "setresuid", "getresuid", "ST_NOEXEC"),
)
NOT_ON_WINDOWS = (
    *(
        "chown",
        "chroot",
        "confstr",
        "ctermid",
        "fchdir",
        "fchmod",
        "fchown",
        "fork",
        "forkpty",
        "fpathconf",
        "fstatvfs",
    ),
    *(
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getloadavg",
        "getpgid",
        "getpriority",
        "getsid",
        "getuid",
        "killpg",
    ),
    *("lchown", "lockf", "mkfifo", "mknod", "nice", "openpty", "pathconf", "pread", "preadv", "pwrite", "pwritev"),
    *(
        "register_at_fork",
        "sched_yield",
        "sendfile",
        "setegid",
        "setpgid",
        "setpriority",
        "setsid",
        "setuid",
        "statvfs",
    ),
    *("sync", "sysconf", "tcgetpgrp", "uname", "wait3", "wait4", "O_CLOEXEC", "O_DIRECT", "O_NONBLOCK", "O_SYNC"),
)
SIGNALS_OF_WINDOWS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")


def take_away() -> None:
    """Makes this process poorer, in what can be asked for by name."""
    windows = system == "win32"
    platform.uname()  # is kept, as is what Python's library and torch find out when they are first asked
    tempfile.gettempdir()
    sysconfig.get_config_vars()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
    usage = shutil.disk_usage(folder)
    for name in NOT_ON_MACOS + (NOT_ON_WINDOWS if windows else ()):
        with contextlib.suppress(AttributeError):
            delattr(os, name)
    for name in [name for name in dir(mmap) if name.startswith("MADV_") or (windows and name.startswith("MAP_"))]:
        delattr(mmap, name)
    if windows:
        for name in [name for name in dir(signal) if name.startswith("SIG") and name not in SIGNALS_OF_WINDOWS]:
            if not name.startswith("SIG_"):
                delattr(signal, name)
        for name in ("alarm", "pause", "setitimer", "sigwait", "pthread_sigmask", "pthread_kill", "set_wakeup_fd"):
            delattr(signal, name)
        del time.tzset
        shutil.disk_usage = lambda path: usage  # is another function there
        os.cpu_count = lambda: 2
    for name in (*(POSIX_ONLY if windows else ()), "triton", "open_clip", "sklearn", "skimage"):
        sys.modules[name] = None  # as if it were not there
    if windows:
        shutil.which = lambda name, *args, **options: None
    read_text = pathlib.Path.read_text

    def read(path, *args, **options):
        if str(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read_text(path, *args, **options)

    pathlib.Path.read_text = read
    sys.platform = system
    platform.system = lambda: {"win32": "Windows", "darwin": "Darwin"}[system]


def newcomer() -> None:
    """Imports the layer, trains it, then goes through the commands."""
    import nca_fast
    from nca_fast import cli

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        nca = nca_fast.NCA.preset("texture")
        y = nca(nca.initial_state(1, 8, 9), steps=2, seed=0)
        y.square().mean().backward()
    assert y.isfinite().all() and all(p.grad is not None for p in nca.parameters())
    print([str(w.message) for w in said if "nca_fast" in str(w.message)])
    model, picture = nca.save_pretrained(pathlib.Path(folder) / "model"), pathlib.Path(folder) / "picture.png"
    size = "--height 16 --width 16 --steps 2"
    for line in (
        f"render {model} {size} --out {picture}",
        f"render {model} {size} --resumable --out {picture}",
        f"render {model} {size} --out {folder}/film.gif",
        f"texture {picture} --out {folder}/run --image-size 16 --iterations 2 --pool-size 2 --steps-min 1 --steps-max 2"
        " --picture-steps 2 --video-steps 0 --features patches",
        f"texture --out {folder}/run --iterations 3 --resume",
        "check",
        "info",
    ):
        status = cli.main(line.split())
        assert status == 0, f"{line}: {status}"


torch.set_num_threads(1)
take_away()
newcomer()
print("done")
