#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show of cardiogloss, in one report. Nothing else is written but a temporary folder.
set -uo pipefail

usage() {
    cat <<'EOF'
Usage: deploy/jetson/verify.sh [--report FILE] [--recording FILE] [--python PYTHON] [--seconds N]

Builds, keeps, re-bakes, compares and times the TensorRT engine on this machine, and writes one Markdown report.
A step that fails is written down and the rest goes on; a step that wants a GPU is "not run" where there is none.
The last one wants pytest, hypothesis, scipy and wfdb, and is "not run" without them.

  --report FILE      the report (default: verify-<host>.md in the current folder)
  --recording FILE   what the windows are cut from, WFDB or CSV, two minutes or more (default: tests/data/mitdb201af)
  --python PYTHON    the interpreter that has cardiogloss, onnx, TensorRT and pycuda (default: python3)
  --seconds N        how long each latency is measured (default: 5)
  --help             this text

Exit code: 0 when every step passed, 1 when one failed or was not run, 2 for wrong use.
EOF
}

report="" recording="" python=python3 seconds=5
while [ $# -gt 0 ]; do
    case "$1" in
        --help) usage; exit 0 ;;
        --report | --recording | --python | --seconds)
            if [ $# -lt 2 ]; then usage >&2; exit 2; fi
            case "$1" in
                --report) report=$2 ;;
                --recording) recording=$2 ;;
                --python) python=$2 ;;
                --seconds) seconds=$2 ;;
            esac
            shift 2 ;;
        *) echo "verify.sh: unknown word $1" >&2; usage >&2; exit 2 ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 2
report=$(realpath -m "${report:-verify-$(uname -n).md}")
recording=$(realpath -m "${recording:-$root/tests/data/mitdb201af}")
if [ ! -d "$(dirname "$report")" ]; then echo "verify.sh: there is no folder for $report" >&2; exit 2; fi
if ! python=$(command -v "$python"); then echo "verify.sh: there is no such Python; name one with --python" >&2; exit 2; fi
case "$python" in /*) ;; *) python=$PWD/$python ;; esac
cd "$root" || exit 2

work=$(mktemp -d) || exit 1
export WORK=$work RECORDING=$recording SECONDS_EACH=$seconds PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# whoever keeps something from run to run keeps it in there
export CARDIOGLOSS_CACHE=$work/cache XDG_CACHE_HOME=$work/cache CUDA_CACHE_PATH=$work/cache/cuda TMPDIR=$work
export PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis
passed=0 failed=0 skipped=0
gpu_missing="" finished=""
: >"$work/steps"
trap finish EXIT
trap 'exit 1' INT TERM

# finish: the report, of what was done when all went well or somebody broke it off
finish() {
    {
        printf '# cardiogloss on %s\n\n' "$(uname -n)"
        printf '%s. %d steps passed, %d failed, %d were not run' "$(date -u +'%Y-%m-%d %H:%M UTC')" "$passed" "$failed" "$skipped"
        if [ -z "$finished" ]; then printf '; broken off before the end'; fi
        printf '.\n%s.\n' "${gpu_missing:-GPU: $(cat "$work/gpu" 2>/dev/null || echo not looked for yet)}"
        printf 'int8 is calibrated on the recording alone here, and is no measure of its accuracy.\n'
        cat "$work/steps"
    } >"$report"
    rm -rf "$work"
    echo "$passed passed, $failed failed, $skipped not run: $report"
}

# step NAME COMMAND...: run it, write down how it ended, and its last hundred lines; 77 says that it could not run here
step() {
    local name=$1 began=$SECONDS code=0 outcome
    shift
    printf '%s ... ' "$name"
    "$@" >"$work/out" 2>&1 || code=$?
    case $code in
        0) outcome=passed passed=$((passed + 1)) ;;
        77) outcome="not run" skipped=$((skipped + 1)) ;;
        *) outcome="FAILED (exit code $code)" failed=$((failed + 1)) ;;
    esac
    echo "$outcome"
    write_down "$name" "$outcome, $((SECONDS - began)) s"
}

# gpu_step NAME COMMAND...: the same, where there is a GPU
gpu_step() {
    if [ -z "$gpu_missing" ]; then step "$@"; else step "$1" no_gpu; fi
}

no_gpu() {
    echo "$gpu_missing"
    return 77
}

write_down() {
    {
        printf '\n## %s: %s\n\n' "$1" "$2"
        printf '~~~\n'
        tail -n 100 "$work/out"
        printf '~~~\n'
    } >>"$work/steps"
}

kernels() { "$python" -m kernels "$@"; }

versions() {
    uname -srm
    cat /etc/nv_tegra_release /proc/device-tree/model 2>/dev/null | tr -d '\0'
    nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>/dev/null
    nvpmodel -q 2>/dev/null
    "$python" - <<'EOF'
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

print("python", platform.python_version())
for name in ("cardiogloss", "numpy", "onnx", "onnxruntime", "pycuda"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "is absent")
for name in ("tensorrt", "tensorrt_rtx"):
    try:
        print(name, import_module(name).__version__)
    except ImportError:
        print(name, "is absent")
EOF
}

find_gpu() {
    "$python" - <<'EOF'
import sys

from kernels.compile import tensorrt_module
from kernels.device import Device
from kernels.findings import ConfigError

try:
    tensorrt_module()
    with Device() as device:
        print(f"{device.name}, compute capability {device.compute_capability}, driver {device.driver}")
except ConfigError as error:
    sys.exit(f"no GPU that cardiogloss can use: {error}")
EOF
}

cut_windows() {
    "$python" - <<'EOF'
import os
from pathlib import Path

import numpy as np

from edge.transport.file import open_recording
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.signal import resample, to_standard_leads

card = Bundle.read(SHIPPED_BUNDLE).card
chunks = list(open_recording(Path(os.environ["RECORDING"])).chunks())
samples = np.concatenate([chunk.samples_mv for chunk in chunks], axis=1)
twelve = to_standard_leads(resample(samples, chunks[0].rate_hz, card.rate_hz), chunks[0].leads)
starts = range(0, twelve.shape[1] - card.samples, round(3 * card.rate_hz))
windows = np.stack([twelve[:, at : at + card.samples] for at in starts])
np.save(os.environ["WORK"] + "/windows.npy", windows)
print(f"{len(windows)} windows of {', '.join(chunks[0].leads)}")
EOF
}

convert() {
    case $1 in
        fp32) cp kernels/shipped/cardiogloss.onnx "$work/fp32.onnx" ;;
        fp16) kernels half --out "$work/fp16.onnx" ;;
        int8) quantize ;;
    esac && (cd "$work" && sha256sum "$1.onnx")
}

quantize() {
    "$python" - <<'EOF'
import os
from pathlib import Path

import numpy as np

from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.quantize import quantize

work = Path(os.environ["WORK"])
made = quantize(Bundle.read(SHIPPED_BUNDLE), np.load(work / "windows.npy"), symmetric=True)
(work / "int8.onnx").write_bytes(made.onnx)
EOF
}

build() { kernels compile "$work/$1.onnx"; }

cache_hit() {
    PRECISION=$1 "$python" - <<'EOF'
import os
import time
from pathlib import Path

from kernels import engine_tensorrt
from kernels.bundle import Bundle
from kernels.engine import open_engine

bundle = Bundle.read(Path(os.environ["WORK"]) / f"{os.environ['PRECISION']}.onnx")


def refuse(*_):
    raise SystemExit("the kept plan was not used")


engine_tensorrt.build_plan = refuse
began = time.perf_counter()
open_engine(bundle, "tensorrt").close()
print(f"opened from the cache in {time.perf_counter() - began:.1f} s")
EOF
}

rebake() {
    "$python" - <<'EOF'
import os
from pathlib import Path

import numpy as np

from kernels import engine_tensorrt
from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.export import bake

work = Path(os.environ["WORK"])
bundle = Bundle.read(work / "fp16.onnx")
windows = np.load(work / "windows.npy")


def refuse(*_):
    raise SystemExit("other findings built the plan again")


engine_tensorrt.build_plan = refuse
for findings in (bundle.card.findings[::-1], bundle.card.findings[::3]):
    other = bake(bundle, findings)
    with open_engine(other, "tensorrt") as ours, open_engine(other) as theirs:
        apart = float(np.abs(ours.run(windows).probability - theirs.run(windows).probability).max())
    print(f"{len(findings)} findings: {apart:.1e} from ONNX Runtime")
    assert apart <= engine_tensorrt.GATES["fp16"]
EOF
}

compare() { kernels compare "$work/$1.onnx" --engine tensorrt --with-engine onnx --windows "$work/windows.npy"; }

latency() {
    PRECISION=$1 "$python" - <<'EOF'
import os
import time
from pathlib import Path

import numpy as np

from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.peak import find_meter

work, seconds = Path(os.environ["WORK"]), float(os.environ["SECONDS_EACH"])
bundle, windows = Bundle.read(work / f"{os.environ['PRECISION']}.onnx"), np.load(work / "windows.npy")
meter = find_meter()


def measure(engine, ecg):
    engine.run(ecg)
    took, joules, end = [], 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        if meter:
            meter.begin()
        began = time.perf_counter()
        engine.run(ecg)
        took.append(time.perf_counter() - began)
        joules += meter.end(took[-1]) if meter else 0.0
    return 1e3 * np.array(took), joules / (len(took) * len(ecg))


with open_engine(bundle, "tensorrt") as engine:
    for batch in (1, 8, 64, 256):
        ecg = np.resize(windows, (batch, *windows.shape[1:]))
        took, joules = measure(engine, ecg)
        time.sleep(10)
        began = time.perf_counter()
        engine.run(ecg)
        idle = 1e3 * (time.perf_counter() - began)
        told = f"{joules:.5f} J a window ({meter.name})" if meter else "energy not told by this platform"
        print(
            f"batch {batch}: median {np.median(took):.3f} ms, p99 {np.percentile(took, 99):.3f} ms, "
            f"{1e3 * batch / np.median(took):.0f} windows/s, first after 10 s idle {idle:.3f} ms, {told}"
        )
EOF
}

side_by_side() { kernels bench "$work/fp32.onnx" "$work/fp16.onnx" "$work/int8.onnx" --windows "$work/windows.npy" --seconds "$seconds"; }

gpu_tests() {
    local absent
    absent=$("$python" - <<'EOF'
from importlib.util import find_spec

print(*[name for name in ("pytest", "hypothesis", "scipy", "wfdb") if find_spec(name) is None])
EOF
    ) || return 1
    if [ -n "$absent" ]; then
        echo "the tests want packages that this Python has not: pip install $absent"
        return 77
    fi
    "$python" -m pytest -q -rs -p no:cacheprovider -m device tests/test_device.py tests/test_resident.py
}

power() {
    "$python" - <<'EOF'
import time

from kernels.peak import find_meter

meter = find_meter()
if meter is None:
    print("no INA3221 and no RAPL that this user may read under /sys")
    raise SystemExit(77)
meter.begin()
time.sleep(2)
print(f"{meter.name}: {meter.end(2) / 2:.2f} W at rest")
EOF
}

step "Versions" versions
step "Windows of the recording" cut_windows
for precision in fp16 fp32 int8; do
    step "Bundle in $precision" convert "$precision"
    step "Plan in $precision" build "$precision"
done
step "Power at rest" power
find_gpu >"$work/gpu" 2>&1 || gpu_missing=$(tail -n 1 "$work/gpu")
for precision in fp16 fp32 int8; do
    gpu_step "The kept plan in $precision is used" cache_hit "$precision"
    gpu_step "TensorRT equals ONNX Runtime in $precision" compare "$precision"
    gpu_step "Latency in $precision" latency "$precision"
done
gpu_step "Other findings need no other plan" rebake
gpu_step "Every engine side by side" side_by_side
gpu_step "The sliding windows' kernel equals its twin" gpu_tests
finished=yes
[ "$failed" -eq 0 ] && [ "$skipped" -eq 0 ]
