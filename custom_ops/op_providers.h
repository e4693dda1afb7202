// How each provider runs a node's kernel: ONNX Runtime's threads on the CPU, its stream on CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "broadcast.h"
#include "kernels.h"
#include "ort_abi.h"
#include "ort_status.h"

namespace onnxfit {

// One run of a node: X, or A and B. Where `jump` is null, `fallback` is every element's jump.
template <class T, int kOperands>
struct Run {
  const T* operands[kOperands];
  T* y;
  std::int64_t count;
  const T* jump;
  T fallback;
  Broadcast layout;
};

struct Cpu {
  static constexpr const char* kProvider = "CPUExecutionProvider";
  // One thread passes over this much in about the time it takes to hand half of it to another one, and each chunk lays
  // out jumps anew: with half of it, rows of 49 elements of 16 bits took up to 5 % longer, with one thread and with two.
  // Four times as much took 3 % less on 16 MiB with one thread, and up to 10 % more on 4 MiB with two.
  static constexpr std::int64_t kLeastChunkBytes = 256 << 10;
  static constexpr std::int64_t kChunks = 64;
  // No instruction set picks jumps that repeat more often: the most of kLongestPicked.
  static constexpr std::int64_t kMostPicked = 256;

  template <class T, int kOperands>
  static void Compute(const ort::OrtApi& api, ort::OrtKernelContext* context, const char*, Run<T, kOperands>& run) {
    if (run.jump == nullptr) {
      run.jump = &run.fallback;
    }
    const std::int64_t size = ChunkSize(run);
    if (run.count <= size) {
      Range(run, 0, run.count);
      return;
    }
    Check(ort::KernelContext_ParallelFor(api, context, Chunk<T, kOperands>,
                                         static_cast<std::size_t>((run.count - 1) / size + 1), 0, &run));
  }

 private:
  // Whole cache lines, so that no two threads write to the same one; where a jump is for several neighbours, as many
  // jumps as a line has elements, so that a chunk need not begin among those that a vector picks from.
  template <class T, int kOperands>
  static std::int64_t ChunkSize(const Run<T, kOperands>& run) {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    const int inner = run.layout.runs - 1;
    const bool repeats = inner > 0 && run.layout.stride[inner] == 0 && run.layout.size[inner] <= kMostPicked;
    const std::int64_t unit = repeats ? run.layout.size[inner] * kLine : kLine;
    const std::int64_t most = run.count / static_cast<std::int64_t>(kLeastChunkBytes / sizeof(T));
    const std::int64_t share = run.count / std::clamp<std::int64_t>(most, 1, kChunks);
    return (share + unit - 1) / unit * unit;
  }

  template <class T, int kOperands>
  static void Chunk(void* data, std::size_t index) {
    const auto& run = *static_cast<const Run<T, kOperands>*>(data);
    const std::int64_t size = ChunkSize(run);
    const std::int64_t begin = static_cast<std::int64_t>(index) * size;
    Range(run, begin, std::min(begin + size, run.count));
  }

  template <class T, int kOperands>
  static void Range(const Run<T, kOperands>& run, std::int64_t begin, std::int64_t end) {
    if constexpr (kOperands == 1) {
      JumpReluCpu(run.operands[0], run.y, begin, end, run.jump, run.layout);
    } else {
      AddJumpReluCpu(run.operands[0], run.operands[1], run.y, begin, end, run.jump, run.layout);
    }
  }
};

struct Cuda {
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  template <class T, int kOperands>
  static void Compute(const ort::OrtApi& api, ort::OrtKernelContext* context, const char* op, Run<T, kOperands>& run) {
    void* stream = nullptr;
    Check(ort::KernelContext_GetGPUComputeStream(api, context, &stream));
    if (const char* error = Launch(run, stream)) {
      throw std::runtime_error(std::string("onnxfit::") + op + " on CUDA: " + error);
    }
  }

 private:
  template <class T, int kOperands>
  static const char* Launch(const Run<T, kOperands>& run, void* stream) {
    if constexpr (kOperands == 1) {
      return JumpReluCuda(run.operands[0], run.y, run.count, run.jump, run.fallback, run.layout, stream);
    } else {
      return AddJumpReluCuda(run.operands[0], run.operands[1], run.y, run.count, run.jump, run.fallback, run.layout,
                             stream);
    }
  }
};

}  // namespace onnxfit
