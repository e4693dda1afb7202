// The kernels, one per device, for float, double, Float16 and BFloat16.
#pragma once

#include <cstdint>

#include "broadcast.h"

namespace onnxfit {

// y[i] = JumpRelu(x[i], J at i) for begin <= i < end. `y` may be `x`; nothing has to be aligned beyond its type.
template <class T>
void JumpReluCpu(const T* x, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                 const Broadcast& layout) noexcept;

// The same for 0 <= i < count, queued on a CUDA stream. All pointers are device memory; where `jump` is null,
// `fallback` is every element's jump. Returns null, or CUDA's words for what went wrong.
template <class T>
const char* JumpReluCuda(const T* x, T* y, std::int64_t count, const T* jump, T fallback, const Broadcast& layout,
                         void* stream) noexcept;

// y[i] = JumpRelu(Add(a[i], b[i]), J at i), as above. `y` may be `a` or `b`.
template <class T>
void AddJumpReluCpu(const T* a, const T* b, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                    const Broadcast& layout) noexcept;

template <class T>
const char* AddJumpReluCuda(const T* a, const T* b, T* y, std::int64_t count, const T* jump, T fallback,
                            const Broadcast& layout, void* stream) noexcept;

}  // namespace onnxfit
