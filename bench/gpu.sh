#!/usr/bin/env bash
# Everything that is asked of a GPU machine, in ten minutes: parity, tuning, speed. Nothing is installed.
#
#     bench/gpu.sh [FOLDER]     results as JSON and logs in FOLDER, by default $OUT or bench/results
#     SMOKE=--smoke bench/gpu.sh FOLDER     every part with tiny sizes, without a GPU too: does the script work?
#
# Every part writes what it has as it goes, and none can take another's time.
set -uo pipefail
cd "$(dirname "$0")/.."
folder="$(realpath -m "${1:-${OUT:-bench/results}}")"
mkdir -p "$folder"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
failed=0

part() { # part SECONDS NAME COMMAND...
  local seconds=$1 name=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" 2>&1 | tee "$folder/gpu_$name.log" | tail -n 25
  local status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || { echo "== $name ended with $status" && failed=1; }
}

# Most of the time of a test goes into compiling, so that they run in as many processes as there are cores.
tests() {
  local files=(tests/test_triton_graphs.py tests/test_triton.py tests/test_triton_memory.py) list
  list=$("$python" -m pytest --collect-only "${files[@]}" "$@" | grep ::) || return 1
  grep -c :: <<<"$list"
  xargs -d '\n' -P "$(nproc)" -n $(($(wc -l <<<"$list") / $(nproc) + 1)) "$python" -m pytest -q -p no:cacheprovider <<<"$list"
}
export -f tests
export python

smoke=${SMOKE:+--smoke}
part 150 parity bash -c 'tests "$@"' tests ${smoke:+-k "powers or capture_of_the_caller"}
part 110 large "$python" -m bench.gpu_parity $smoke --out "$folder/gpu_parity.json"
part 120 tune "$python" -m bench.tune_triton $smoke --out "$folder/tune_triton.json"
part 90 fp16 "$python" -m bench.rollout --device cuda $smoke --precision fp16 --repeats 3 \
  --out "$folder/rollout_cuda_12ch_fp16.json"
part 50 fp32 "$python" -m bench.rollout --device cuda $smoke --precision fp32 --repeats 2 \
  --out "$folder/rollout_cuda_12ch_fp32.json"
part 60 bf16 "$python" -m bench.rollout --device cuda $smoke --precision bf16 --state bf16 --channels 16 --repeats 2 \
  --out "$folder/rollout_cuda_16ch_bf16.json"
exit "$failed"
