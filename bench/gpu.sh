#!/usr/bin/env bash
# What is asked of a lent GPU: three scripts, each of which ends by itself in under four minutes. Nothing is installed.
#
#     bench/gpu.sh check [FOLDER]    is it right? above 2**31 numbers, parity, the five systems, graphs, memcheck
#     bench/gpu.sh speed [FOLDER]    how fast is it, and what bounds it?
#     bench/gpu.sh tune  [FOLDER]    which sizes of programs are best, and where does an iteration's time go?
#
# Results as JSON, written row by row, and logs go to FOLDER, by default $OUT (packed) or bench/results. COMMIT=... names
# the commit where there is no git. SMOKE=1 tries every part with tiny sizes, without a GPU in Triton's interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
seconds=228
if [ -n "${SMOKE:-}" ]; then
    seconds=1500
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # on a busy machine threads would wait for each other
fi
exec timeout -k 10 "$seconds" "${PYTHON:-python3}" -m bench.gpu_parts "$@"
