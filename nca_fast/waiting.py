"""How long threads that have nothing to do keep their core busy.

PyTorch's threads wait for each other after every operation, by default spinning for milliseconds; beside other work
each of them burns the core that another one needs. OpenMP reads how long as it is loaded, with torch.
"""

import os
import sys

# Some microseconds: on a quiet machine as fast as spinning without end, beside other work as fast as not spinning.
_SETTINGS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}  # of GCC's and of LLVM's and Intel's OpenMP


def wait_briefly() -> None:
    """Lets threads give up their core soon, unless torch is loaded already or the environment says how they wait."""
    if "torch" in sys.modules or any(name in os.environ for name in ("OMP_WAIT_POLICY", *_SETTINGS)):
        return
    os.environ.update(_SETTINGS)
