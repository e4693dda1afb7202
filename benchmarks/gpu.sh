#!/usr/bin/env bash
# Check and time the CUDA kernels on a machine with an NVIDIA GPU and nvcc. What Python, PyTorch, Triton and ONNX
# Runtime add to that is left out, with the reason, where one of them is missing.
#
#   benchmarks/gpu.sh [RESULTS]     RESULTS: the folder for the figures, by default benchmarks/results
#
# Writes gpu.json and gpu.txt, cuda_ops.json and cuda_ops.txt, what the checks printed into gpu_check.txt and the like,
# and a page of all figures, with the targets and whether they are reached, named after the GPU.
# PYTHON names another Python than python3. ONNXFIT_LIBRARY names a library with CUDA kernels; without it one is built
# where CMake is installed.
#
# Exit status: 0 done, 1 a bit differs or compute-sanitizer objects, 3 no usable compiler or GPU.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$here/../custom_ops
results=${1:-$here/results}
python=${PYTHON:-python3}
mkdir -p "$results"
results=$(cd "$results" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

if ! command -v nvcc >/dev/null; then
  echo "gpu.sh: nvcc is not on the PATH" >&2
  exit 3
fi

echo "== build"
nvcc -std=c++17 -O3 -lineinfo -arch=native -Xcompiler -Wall,-Wextra -o "$build/bench_jump_relu" \
  "$source_dir/bench_jump_relu.cu" "$source_dir/jump_relu.cu" "$source_dir/broadcast.cc" || exit 3

echo "== check"
status=0
"$build/bench_jump_relu" --check | tee "$build/gpu_check.txt" || status=$?
[ "$status" -eq 3 ] || cp "$build/gpu_check.txt" "$results"
[ "$status" -eq 0 ] || exit "$status"

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck initcheck; do
    echo "== compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/bench_jump_relu" --check --no-huge \
      | tee "$results/gpu_$tool.txt"
  done
else
  echo "== compute-sanitizer is not installed: skipped"
fi

echo "== benchmark"
"$build/bench_jump_relu" --json "$results/gpu.json" | tee "$results/gpu.txt"

if ! command -v "$python" >/dev/null; then
  echo "== $python is not installed: no comparison, no page"
  exit 0
fi

if [ -z "${ONNXFIT_LIBRARY:-}" ] && command -v cmake >/dev/null; then
  echo "== custom-op library"
  if cmake -S "$source_dir" -B "$build/library" -DONNXFIT_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native >"$build/log" 2>&1 &&
    cmake --build "$build/library" >>"$build/log" 2>&1; then
    export ONNXFIT_LIBRARY=$build/library/libonnxfit_ops.so
  else
    tail -n 20 "$build/log"
    echo "== the custom-op library does not build: no sessions with it"
  fi
fi

echo "== comparison"
status=0
PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} "$python" "$here/cuda_ops.py" --json "$results/cuda_ops.json" \
  | tee "$results/cuda_ops.txt" || status=1
"$python" "$here/gpu_report.py" "$results" --write
exit $status
