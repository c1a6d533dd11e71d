import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SHOW = f"import json, os; print(json.dumps({{n: os.environ[n] for n in {NAMES} if n in os.environ}}))"
BRIEFLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize(
    ("before", "code", "expected"),
    [
        ({}, "import nca_fast, sys; assert 'torch' not in sys.modules", BRIEFLY),
        ({"OMP_WAIT_POLICY": "active"}, "import nca_fast", {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, "import nca_fast", {"GOMP_SPINCOUNT": "7"}),
        ({}, "import torch, nca_fast", {}),
    ],
)
def test_threads_wait_briefly_unless_somebody_said_how(before, code, expected):
    """A process of its own: OpenMP reads this as torch is loaded, so it must be there before."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | before
    command = [sys.executable, "-c", f"{code}\n{SHOW}"]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == expected
