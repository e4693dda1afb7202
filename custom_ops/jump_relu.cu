#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "jump_relu.h"
#include "kernels.h"

namespace onnxfit {
namespace {

constexpr int kThreads = 256;
constexpr int kPackBytes = 16;

// Divides 0 <= n < 2^31 by multiplying (Granlund and Montgomery 1994): a division costs more than the memory traffic.
class FastDivider {
 public:
  using Index = std::uint32_t;

  FastDivider() = default;
  explicit FastDivider(std::int64_t divisor) : divisor_(static_cast<Index>(divisor)) {
    while ((std::uint64_t{1} << shift_) < divisor_) {
      ++shift_;
    }
    const std::uint64_t excess = (std::uint64_t{1} << shift_) - divisor_;
    multiplier_ = static_cast<Index>((excess << 32) / divisor_ + 1);
  }

  __device__ Index Divide(Index n, Index* remainder) const {
    const Index quotient = (__umulhi(n, multiplier_) + n) >> shift_;
    *remainder = n - quotient * divisor_;
    return quotient;
  }

 private:
  Index divisor_ = 1;
  Index multiplier_ = 1;
  Index shift_ = 0;
};

// For tensors beyond FastDivider's range.
class WideDivider {
 public:
  using Index = std::int64_t;

  WideDivider() = default;
  explicit WideDivider(std::int64_t divisor) : divisor_(divisor) {}

  __device__ Index Divide(Index n, Index* remainder) const {
    *remainder = n % divisor_;
    return n / divisor_;
  }

 private:
  Index divisor_ = 1;
};

// One jump for all elements.
template <class T>
class SameJump {
 public:
  SameJump(const T* jump, T fallback) : jump_(jump), fallback_(fallback) {}

  struct Cursor {
    T jump;
    __device__ T Next() { return jump; }
    __device__ bool Repeats(int) const { return true; }
  };

  __device__ Cursor From(std::int64_t) const { return {jump_ ? *jump_ : fallback_}; }

 private:
  const T* jump_;
  T fallback_;
};

// J broadcast along X.
template <class T, class Divider>
class OwnJumps {
 public:
  using Index = typename Divider::Index;

  OwnJumps(const T* jump, const Broadcast& layout)
      : jump_(jump),
        outer_runs_(layout.runs - 1),
        inner_size_(static_cast<Index>(layout.size[outer_runs_])),
        inner_stride_(layout.stride[outer_runs_]),
        inner_(layout.size[outer_runs_]) {
    for (int run = 0; run < outer_runs_; ++run) {
      size_[run] = Divider(layout.size[run]);
      stride_[run] = layout.stride[run];
    }
  }

  // The jumps from one element of X onwards.
  struct Cursor {
    const OwnJumps& jumps;
    Index row;
    Index column;
    const T* row_jump;

    __device__ T Next() {
      if (column == jumps.inner_size_) {
        column = 0;
        row_jump = jumps.RowJump(++row);
      }
      return row_jump[column++ * jumps.inner_stride_];
    }

    // Whether the next `count` jumps are the same one.
    __device__ bool Repeats(Index count) const {
      return jumps.inner_stride_ == 0 && jumps.inner_size_ - column >= count;
    }
  };

  __device__ Cursor From(std::int64_t begin) const {
    Index column;
    const Index row = inner_.Divide(static_cast<Index>(begin), &column);
    return {*this, row, column, RowJump(row)};
  }

 private:
  __device__ const T* RowJump(Index row) const {
    std::int64_t offset = 0;
#pragma unroll 1
    for (int run = outer_runs_ - 1; run > 0; --run) {
      Index position;
      row = size_[run].Divide(row, &position);
      offset += position * stride_[run];
    }
    return jump_ + offset + row * stride_[0];
  }

  const T* jump_;
  int outer_runs_;
  Index inner_size_;
  std::int64_t inner_stride_;
  Divider inner_;
  Divider size_[Broadcast::kMaxRuns];
  std::int64_t stride_[Broadcast::kMaxRuns] = {};
};

// One thread computes kWidth neighbours; 16 bytes of them, where the pointers allow, in one load and one store.
template <class T, int kWidth, class Jumps>
__global__ void JumpReluKernel(const T* x, T* y, std::int64_t count, const __grid_constant__ Jumps jumps) {
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWidth;
  if (begin >= count) {
    return;
  }
  auto jump = jumps.From(begin);
  if (kWidth * sizeof(T) == kPackBytes && begin + kWidth <= count) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(x + begin);
    T values[kPackBytes / sizeof(T)];
    std::memcpy(values, &loaded, kPackBytes);
    if (jump.Repeats(kWidth)) {
      const T same = jump.Next();
#pragma unroll
      for (T& value : values) {
        value = JumpRelu(value, same);
      }
    } else {
#pragma unroll
      for (T& value : values) {
        value = JumpRelu(value, jump.Next());
      }
    }
    uint4 result;
    std::memcpy(&result, values, kPackBytes);
    *reinterpret_cast<uint4*>(y + begin) = result;
    return;
  }
  const std::int64_t end = begin + kWidth < count ? begin + kWidth : count;
  for (std::int64_t i = begin; i < end; ++i) {
    y[i] = JumpRelu(x[i], jump.Next());
  }
}

template <int kWidth, class T, class Jumps>
cudaError_t Launch(const T* x, T* y, std::int64_t count, const Jumps& jumps, void* stream) {
  constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * kWidth;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((count + kPerBlock - 1) / kPerBlock));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, JumpReluKernel<T, kWidth, Jumps>, x, y, count, jumps);
}

template <class T, class Jumps>
cudaError_t LaunchWidest(const T* x, T* y, std::int64_t count, const Jumps& jumps, void* stream) {
  const auto misalignment = (reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y)) % kPackBytes;
  return misalignment == 0 ? Launch<kPackBytes / sizeof(T)>(x, y, count, jumps, stream)
                           : Launch<1>(x, y, count, jumps, stream);
}

}  // namespace

template <class T>
const char* JumpReluCuda(const T* x, T* y, std::int64_t count, const T* jump, T fallback, const Broadcast& layout,
                         void* stream) noexcept {
  if (count == 0) {
    return nullptr;
  }
  cudaError_t error;
  if (layout.runs == 1 && layout.stride[0] == 0) {
    error = LaunchWidest(x, y, count, SameJump<T>(jump, fallback), stream);
  } else if (count <= INT32_MAX) {
    error = LaunchWidest(x, y, count, OwnJumps<T, FastDivider>(jump, layout), stream);
  } else {
    error = LaunchWidest(x, y, count, OwnJumps<T, WideDivider>(jump, layout), stream);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template const char* JumpReluCuda(const float*, float*, std::int64_t, const float*, float, const Broadcast&,
                                  void*) noexcept;
template const char* JumpReluCuda(const double*, double*, std::int64_t, const double*, double, const Broadcast&,
                                  void*) noexcept;
template const char* JumpReluCuda(const Float16*, Float16*, std::int64_t, const Float16*, Float16, const Broadcast&,
                                  void*) noexcept;
template const char* JumpReluCuda(const BFloat16*, BFloat16*, std::int64_t, const BFloat16*, BFloat16,
                                  const Broadcast&, void*) noexcept;

}  // namespace onnxfit
