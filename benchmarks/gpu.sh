#!/usr/bin/env bash
# Check and time the CUDA kernel on a machine with an NVIDIA GPU and nvcc; ONNX Runtime is not needed.
#
#   benchmarks/gpu.sh [RESULTS]     RESULTS: the folder for the figures, by default benchmarks/results
#
# Exit status: 0 done, 1 a bit differs or compute-sanitizer objects, 3 no usable compiler or GPU.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$here/../custom_ops
results=${1:-$here/results}
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
"$build/bench_jump_relu" --check | tee "$results/gpu_check.txt"

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck initcheck; do
    echo "== compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/bench_jump_relu" --check \
      | tee "$results/gpu_$tool.txt"
  done
else
  echo "== compute-sanitizer is not installed: skipped"
fi

echo "== benchmark"
"$build/bench_jump_relu" --json "$results/gpu.json" | tee "$results/gpu.txt"
