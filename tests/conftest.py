"""What all tests share: a fixed seed, and rules, weights and states to try kernels on."""

import os
import tempfile

# Threads that wait sleep. By default they spin, and with a test per core, or another program beside them, they take
# the time of those that work: the C++ kernel's tests took up to six times the CPU time. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Torch keeps compiled graphs under a name that does not tell for which instruction set they are.
if "ATEN_CPU_CAPABILITY" in os.environ:
    folder = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}_{os.environ['ATEN_CPU_CAPABILITY']}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, which no test file does at its top


def printable(value):
    """The same, with what no encoding can take (bytes that Python read as lone surrogates) as escapes: xdist sends what
    tests say as UTF-8, and one that it cannot send would end the whole run."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {printable(key): printable(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(printable, value))
    return value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    return printable((yield))


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message):
    if isinstance(warning_message.message, Warning):
        warning_message.message.args = printable(warning_message.message.args)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests work on small tensors, for which waking a second thread costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poisoned():
    """Memory that nobody wrote holds NaN, in Python and in C++: at::empty and all that goes through it."""
    old = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(old)
