#include <algorithm>
#include <cstdint>

#include "jump_relu.h"
#include "kernels.h"

// No iteration reads what another one writes, even when y is x. Without the hint the compiler checks for overlap first.
#if defined(__clang__)
#define ONNXFIT_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define ONNXFIT_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define ONNXFIT_INDEPENDENT_ITERATIONS __pragma(loop(ivdep))
#else
#define ONNXFIT_INDEPENDENT_ITERATIONS
#endif

namespace onnxfit {
namespace {

template <class T>
void SameJump(const T* x, T* y, std::int64_t count, T jump) {
  ONNXFIT_INDEPENDENT_ITERATIONS
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = JumpRelu(x[i], jump);
  }
}

template <class T>
void OwnJumps(const T* x, T* y, std::int64_t count, const T* jumps) {
  ONNXFIT_INDEPENDENT_ITERATIONS
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = JumpRelu(x[i], jumps[i]);
  }
}

// Where J stands at the start of the innermost run number `row`.
std::int64_t JumpOffset(const Broadcast& layout, std::int64_t row) {
  std::int64_t offset = 0;
  for (int run = layout.runs - 2; run > 0; --run) {
    offset += row % layout.size[run] * layout.stride[run];
    row /= layout.size[run];
  }
  return offset + row * layout.stride[0];
}

}  // namespace

template <class T>
void JumpReluCpu(const T* x, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                 const Broadcast& layout) noexcept {
  const std::int64_t inner = layout.size[layout.runs - 1];
  const bool advances = layout.stride[layout.runs - 1] != 0;
  std::int64_t row = inner ? begin / inner : 0;
  std::int64_t column = inner ? begin % inner : 0;
  for (; begin < end; ++row, column = 0) {
    const std::int64_t count = std::min(inner - column, end - begin);
    const T* const row_jump = jump + JumpOffset(layout, row);
    if (advances) {
      OwnJumps(x + begin, y + begin, count, row_jump + column);
    } else {
      SameJump(x + begin, y + begin, count, *row_jump);
    }
    begin += count;
  }
}

template void JumpReluCpu(const float*, float*, std::int64_t, std::int64_t, const float*, const Broadcast&) noexcept;
template void JumpReluCpu(const double*, double*, std::int64_t, std::int64_t, const double*,
                          const Broadcast&) noexcept;
template void JumpReluCpu(const Float16*, Float16*, std::int64_t, std::int64_t, const Float16*,
                          const Broadcast&) noexcept;
template void JumpReluCpu(const BFloat16*, BFloat16*, std::int64_t, std::int64_t, const BFloat16*,
                          const Broadcast&) noexcept;

}  // namespace onnxfit
