#!/usr/bin/env bash
# What a GPU is asked first: bash benchmarks/gpu.sh OUT [--data cifar100:PATH] [--minutes 25] [--smoke]
#
# Into the folder OUT, in this order: environment.json; tests.txt, the tests of the CUDA kernels; losses.csv, every loss
# timed; table/, one pair of Table 1 by SGD over 240 epochs (a teacher, then students side by side on the card, seed by
# seed), its records and its table. Each part is kept as far as it came: it may be cut off at any moment, and the same
# line goes on with the table. --smoke does all of it in miniature on the CPU.
#
# PYTHON names the interpreter (python3), JOBS the students at a time (4), PAIR and METHODS what is trained.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:?bash benchmarks/gpu.sh OUT [--data cifar100:PATH] [--minutes N] [--smoke]}
shift
DATA= MINUTES=25 SMOKE=
while (($#)); do
    case $1 in
    --data) DATA=${2:?--data: expected cifar100:PATH} && shift 2 ;;
    --minutes) MINUTES=${2:?--minutes: expected a number} && shift 2 ;;
    --smoke) SMOKE=1 && shift ;;
    *) echo "gpu.sh: unknown argument $1" >&2 && exit 2 ;;
    esac
done
PYTHON=${PYTHON:-python3} JOBS=${JOBS:-4} PAIR=${PAIR:-resnet32x4-resnet8x4} METHODS=${METHODS:-pld kd ce dist dkd}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
END=$((SECONDS + 60 * MINUTES)) STARTED=$SECONDS
mkdir -p "$OUT"

within() { # within SECONDS COMMAND...: at most so long, and never beyond the end
    local most=$1 left=$((END - SECONDS))
    shift
    ((left > 0)) || return 124
    timeout --signal=TERM --kill-after=20 $((most < left ? most : left)) "$@"
}

DEVICE=cuda TESTS="tests/kernels/test_gpu.py tests/kernels/test_cuda.py tests/test_bench.py"
LOSSES="--rounds 21 --dtypes float32 bfloat16 float16" SCALE=full SEEDS=3
if [[ $SMOKE ]]; then
    DEVICE=cpu TESTS="tests/kernels/test_gpu.py" SCALE=smoke SEEDS=1 JOBS=2 METHODS="pld kd" PAIR=resnet56-resnet20
    LOSSES="--rounds 2 --shapes 16x10 --dtypes float32 --threads 1 --losses pld"
fi

"$PYTHON" -c "
import json, torch
from pldistill.record import environment
print(json.dumps(environment(device='$DEVICE', world_size=1), indent=2))" >"$OUT/environment.json" || exit 1

echo "== tests"
within 300 "$PYTHON" -m pytest -p no:cacheprovider $TESTS 2>&1 | tee "$OUT/tests.txt" | tail -n 3

echo "== losses"
within 300 "$PYTHON" benchmarks/losses.py --device $DEVICE $LOSSES --out "$OUT/losses.csv" | tail -n 30

echo "== table"
within $((60 * MINUTES)) "$PYTHON" benchmarks/gpu_table.py --out "$OUT/table" --scale $SCALE --seeds $SEEDS \
    --device $DEVICE --jobs "$JOBS" --pair "$PAIR" --methods $METHODS ${DATA:+--data "$DATA"}
echo "== $((SECONDS - STARTED)) seconds; what there is lies in $OUT"
