#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "add.h"
#include "jump_relu.h"
#include "kernels.h"

namespace onnxfit {

// ---- 16-bit numbers in twos ---------------------------------------------------------------------------------------

// Two numbers in one register. One by one, the integer arithmetic of jump_relu.h would take longer than the memory.
template <class T>
struct Pair {
  std::uint32_t bits;

  __device__ T low() const { return {static_cast<std::uint16_t>(bits)}; }
  __device__ T high() const { return {static_cast<std::uint16_t>(bits >> 16)}; }
};

template <class T>
__device__ inline Pair<T> MakePair(T low, T high) {
  return {low.bits | static_cast<std::uint32_t>(high.bits) << 16};
}

__device__ inline Pair<Float16> JumpRelu(Pair<Float16> x, Pair<Float16> jump) {
#if defined(__CUDA_ARCH__)
  std::uint32_t at_most;  // All ones in the halves where it holds.
  asm("set.le.u32.f16x2 %0, %1, %2;" : "=r"(at_most) : "r"(x.bits), "r"(jump.bits));
  return {x.bits & ~at_most};
#else
  return MakePair(JumpRelu(x.low(), jump.low()), JumpRelu(x.high(), jump.high()));
#endif
}

// A bfloat16 is the upper half of a float.
__device__ inline Pair<BFloat16> JumpRelu(Pair<BFloat16> x, Pair<BFloat16> jump) {
  constexpr std::uint32_t kHigh = 0xffff0000;
  const bool low = FloatOfBits(x.bits << 16) <= FloatOfBits(jump.bits << 16);
  const bool high = FloatOfBits(x.bits & kHigh) <= FloatOfBits(jump.bits & kHigh);
  return {(low ? 0 : x.bits & ~kHigh) | (high ? 0 : x.bits & kHigh)};
}

__device__ inline Pair<Float16> Add(Pair<Float16> a, Pair<Float16> b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a.bits), "r"(b.bits));
  return {sum};
#else
  return MakePair(Add(a.low(), b.low()), Add(a.high(), b.high()));
#endif
}

__device__ inline Pair<BFloat16> Add(Pair<BFloat16> a, Pair<BFloat16> b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const float low = Widen(a.low()) + Widen(b.low());
  const float high = Widen(a.high()) + Widen(b.high());
  std::uint32_t sum;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(sum) : "f"(high), "f"(low));
  return {sum};
#else
  return MakePair(Add(a.low(), b.low()), Add(a.high(), b.high()));
#endif
}

namespace {

// ---- packs --------------------------------------------------------------------------------------------------------

constexpr int kThreads = 128;
// 16-byte loads that a thread issues before it waits: with fewer, device memory idles.
constexpr int kLoads = 4;
constexpr int kPackBytes = 16;

// What one instruction computes on: a number or a pair.
template <class T>
struct WordOf {
  using Type = T;
};
template <>
struct WordOf<Float16> {
  using Type = Pair<Float16>;
};
template <>
struct WordOf<BFloat16> {
  using Type = Pair<BFloat16>;
};
template <class T>
using Word = typename WordOf<T>::Type;

template <class T>
__device__ Word<T> Repeat(T x) {
  if constexpr (sizeof(Word<T>) > sizeof(T)) {
    return MakePair(x, x);
  } else {
    return x;
  }
}

template <class T>
__device__ T First(const Word<T>& word) {
  if constexpr (sizeof(Word<T>) > sizeof(T)) {
    return word.low();
  } else {
    return word;
  }
}

// Neighbours that one load or store moves.
template <class T>
struct Pack {
  static constexpr int kElements = kPackBytes / sizeof(T);
  static constexpr int kWords = kPackBytes / sizeof(Word<T>);
  Word<T> words[kWords];
};

template <class T>
__device__ Pack<T> Load(const T* from) {
  const uint4 loaded = *reinterpret_cast<const uint4*>(from);
  Pack<T> pack;
  std::memcpy(&pack, &loaded, kPackBytes);
  return pack;
}

template <class T>
__device__ void Store(T* to, const Pack<T>& pack) {
  uint4 stored;
  std::memcpy(&stored, &pack, kPackBytes);
  *reinterpret_cast<uint4*>(to) = stored;
}

// The pack whose element number i is `element(i)`, asked for in order.
template <class T, class Element>
__device__ Pack<T> Collect(Element element) {
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < Pack<T>::kWords; ++i) {
    if constexpr (Pack<T>::kWords < Pack<T>::kElements) {
      const T low = element(2 * i);
      pack.words[i] = MakePair(low, element(2 * i + 1));
    } else {
      pack.words[i] = element(i);
    }
  }
  return pack;
}

// ---- inputs -------------------------------------------------------------------------------------------------------

template <class T>
struct PlainInput {
  static constexpr int kInputs = 1;
  const T* x;

  __device__ Pack<T> At(std::int64_t i) const { return Load(x + i); }
  __device__ Word<T> Single(std::int64_t i) const { return Repeat(x[i]); }
};

template <class T>
struct SumInput {
  static constexpr int kInputs = 2;
  const T* a;
  const T* b;

  __device__ Pack<T> At(std::int64_t i) const {
    Pack<T> sum = Load(a + i);
    const Pack<T> other = Load(b + i);
#pragma unroll
    for (int word = 0; word < Pack<T>::kWords; ++word) {
      sum.words[word] = Add(sum.words[word], other.words[word]);
    }
    return sum;
  }
  __device__ Word<T> Single(std::int64_t i) const { return Add(Repeat(a[i]), Repeat(b[i])); }
};

// ---- jumps --------------------------------------------------------------------------------------------------------

__device__ inline std::uint32_t HighProduct(std::uint32_t a, std::uint32_t b) { return __umulhi(a, b); }
__device__ inline std::uint64_t HighProduct(std::uint64_t a, std::uint64_t b) { return __umul64hi(a, b); }

// Divides by multiplying (Granlund and Montgomery 1994): a division costs more than the memory traffic.
// The highest bit of divisor and dividend is 0.
template <class Index>
class Divider {
 public:
  Divider() = default;
  explicit Divider(std::int64_t divisor) : divisor_(static_cast<Index>(divisor)) {
    while ((Index{1} << shift_) < divisor_) {
      ++shift_;
    }
    // The multiplier is 1 + (2^shift - divisor) * 2^bits / divisor.
    Index remainder = (Index{1} << shift_) - divisor_;
    for (std::size_t bit = 0; bit < 8 * sizeof(Index); ++bit) {
      remainder *= 2;
      const Index digit = remainder >= divisor_;
      remainder -= digit * divisor_;
      multiplier_ = 2 * multiplier_ + digit;
    }
    ++multiplier_;
  }

  __device__ Index Divide(Index n, Index* remainder) const {
    const Index quotient = (HighProduct(n, multiplier_) + n) >> shift_;
    *remainder = n - quotient * divisor_;
    return quotient;
  }

 private:
  Index divisor_ = 1;
  Index multiplier_ = 0;
  int shift_ = 0;
};

// One jump for all elements.
template <class T>
class SameJump {
 public:
  static constexpr int kMaxPacks = 4;

  SameJump(const T* jump, T fallback) : jump_(jump), fallback_(fallback) {}

  struct Reader {
    T jump;

    __device__ T Single(std::int64_t) const { return jump; }
    __device__ Pack<T> At(std::int64_t) const {
      return Collect<T>([this](int) { return jump; });
    }
  };

  __device__ Reader Open() const { return {jump_ ? *jump_ : fallback_}; }

 private:
  const T* jump_;
  T fallback_;
};

// J broadcast along X; Index holds every index of X, and so of J, which is no larger.
template <class T, class Index>
class OwnJumps {
 public:
  static constexpr int kMaxPacks = 2;  // The code for one pack is long.

  OwnJumps(const T* jump, const Broadcast& layout)
      : jump_(jump),
        outer_runs_(layout.runs - 1),
        inner_size_(static_cast<Index>(layout.size[outer_runs_])),
        inner_stride_(static_cast<Index>(layout.stride[outer_runs_])),
        inner_(layout.size[outer_runs_]) {
    for (int run = 0; run < outer_runs_; ++run) {
      size_[run] = Divider<Index>(layout.size[run]);
      stride_[run] = static_cast<Index>(layout.stride[run]);
    }
  }

  __device__ const OwnJumps& Open() const { return *this; }

  __device__ T Single(std::int64_t i) const {
    Index column;
    const Index row = inner_.Divide(static_cast<Index>(i), &column);
    return RowJump(row)[column * inner_stride_];
  }

  __device__ Pack<T> At(std::int64_t begin) const {
    constexpr Index kElements = Pack<T>::kElements;
    Index column;
    Index row = inner_.Divide(static_cast<Index>(begin), &column);
    const T* row_jump = RowJump(row);
    const Index left = inner_size_ - column;
    if (inner_stride_ == 0 && inner_size_ >= kElements) {  // In one row, or in two.
      const T first = *row_jump;
      const T second = left < kElements ? *RowJump(row + 1) : first;
      return left < kElements ? Collect<T>([=](int i) { return static_cast<Index>(i) < left ? first : second; })
                              : Collect<T>([=](int) { return first; });
    }
    if (left >= kElements && reinterpret_cast<std::uintptr_t>(row_jump + column) % kPackBytes == 0) {
      return Load(row_jump + column);
    }
    return Collect<T>([&](int) {
      if (column == inner_size_) {
        column = 0;
        row_jump = RowJump(++row);
      }
      return row_jump[column++ * inner_stride_];
    });
  }

 private:
  __device__ const T* RowJump(Index row) const {
    Index offset = 0;
#pragma unroll 1
    for (int run = outer_runs_ - 1; run > 0; --run) {
      Index position;
      row = size_[run].Divide(row, &position);
      offset += position * stride_[run];
    }
    return jump_ + (offset + row * stride_[0]);
  }

  const T* jump_;
  int outer_runs_;
  Index inner_size_;
  Index inner_stride_;
  Divider<Index> inner_;
  Divider<Index> size_[Broadcast::kMaxRuns];
  Index stride_[Broadcast::kMaxRuns] = {};
};

// ---- the kernel ---------------------------------------------------------------------------------------------------

// Computes `packs` packs, kPacks in each thread, and the elements behind them one by one. Loads, and only then stores:
// y may be an input, so the compiler moves no load ahead of a store.
template <int kPacks, class T, class Input, class Jumps>
__global__ void __launch_bounds__(kThreads)
    JumpReluKernel(const __grid_constant__ Input input, T* y, std::int64_t packs, std::int64_t count,
                   const __grid_constant__ Jumps jumps) {
  constexpr int kElements = Pack<T>::kElements;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kPacks) + threadIdx.x;
  const bool whole = packs - first >= kThreads * kPacks;
  const int left = whole ? kThreads * kPacks : first < packs ? static_cast<int>(packs - first) : 0;
  Pack<T> values[kPacks];
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    if (pack * kThreads < left) {
      values[pack] = input.At((first + pack * kThreads) * kElements);
    }
  }
  const auto& own_jumps = jumps.Open();
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * kThreads;
#pragma unroll 1
  for (std::int64_t i = packs * kElements + static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += threads) {
    y[i] = First<T>(JumpRelu(input.Single(i), Repeat(own_jumps.Single(i))));
  }
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    if (pack * kThreads < left) {
      const Pack<T> own = own_jumps.At((first + pack * kThreads) * kElements);
#pragma unroll
      for (int word = 0; word < Pack<T>::kWords; ++word) {
        values[pack].words[word] = JumpRelu(values[pack].words[word], own.words[word]);
      }
    }
  }
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    if (pack * kThreads < left) {
      Store(y + (first + pack * kThreads) * kElements, values[pack]);
    }
  }
}

bool IsAligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kPackBytes == 0; }
template <class T>
bool IsAligned(const PlainInput<T>& input) {
  return IsAligned(input.x);
}
template <class T>
bool IsAligned(const SumInput<T>& input) {
  return IsAligned(input.a) && IsAligned(input.b);
}

template <class T, class Input, class Jumps>
cudaError_t Launch(const Input& input, T* y, std::int64_t count, const Jumps& jumps, void* stream) {
  constexpr int kPacks = std::min(kLoads / Input::kInputs, Jumps::kMaxPacks);
  constexpr int kPerBlock = kThreads * kPacks * Pack<T>::kElements;
  // More blocks than a grid can have are more elements than a device can hold: CUDA refuses.
  const std::int64_t blocks = std::min<std::int64_t>((count - 1) / kPerBlock + 1, UINT32_MAX);
  const std::int64_t packs = IsAligned(input) && IsAligned(y) ? count / Pack<T>::kElements : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, JumpReluKernel<kPacks, T, Input, Jumps>, input, y, packs, count, jumps);
}

template <class T, class Input>
const char* LaunchFor(const Input& input, T* y, std::int64_t count, const T* jump, T fallback,
                      const Broadcast& layout, void* stream) {
  if (count == 0) {
    return nullptr;
  }
  cudaError_t error;
  if (layout.runs == 1 && layout.stride[0] == 0) {
    error = Launch(input, y, count, SameJump<T>(jump, fallback), stream);
  } else if (count <= INT32_MAX) {
    error = Launch(input, y, count, OwnJumps<T, std::uint32_t>(jump, layout), stream);
  } else {
    error = Launch(input, y, count, OwnJumps<T, std::uint64_t>(jump, layout), stream);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

template <class T>
const char* JumpReluCuda(const T* x, T* y, std::int64_t count, const T* jump, T fallback, const Broadcast& layout,
                         void* stream) noexcept {
  return LaunchFor(PlainInput<T>{x}, y, count, jump, fallback, layout, stream);
}

template <class T>
const char* AddJumpReluCuda(const T* a, const T* b, T* y, std::int64_t count, const T* jump, T fallback,
                            const Broadcast& layout, void* stream) noexcept {
  return LaunchFor(SumInput<T>{a, b}, y, count, jump, fallback, layout, stream);
}

#define ONNXFIT_INSTANTIATE(T)                                                                                       \
  template const char* JumpReluCuda(const T*, T*, std::int64_t, const T*, T, const Broadcast&, void*) noexcept;      \
  template const char* AddJumpReluCuda(const T*, const T*, T*, std::int64_t, const T*, T, const Broadcast&, void*) \
      noexcept;
ONNXFIT_INSTANTIATE(float)
ONNXFIT_INSTANTIATE(double)
ONNXFIT_INSTANTIATE(Float16)
ONNXFIT_INSTANTIATE(BFloat16)

}  // namespace onnxfit
