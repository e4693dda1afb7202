// The scalar definition of JumpReLU, used by the CPU kernel, the CUDA kernel and their checks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ONNXFIT_HOST_DEVICE __host__ __device__
#else
#define ONNXFIT_HOST_DEVICE
#endif

namespace onnxfit {

// 16-bit floats are kept as their bits: JumpReLU compares and selects, which needs no arithmetic.
struct Float16 {
  static constexpr std::int16_t kInfinity = 0x7c00;
  std::uint16_t bits;
};

struct BFloat16 {
  static constexpr std::int16_t kInfinity = 0x7f80;
  std::uint16_t bits;
};

// The bits as an integer that is ordered like the value: both zeros are 0, NaN lies beyond the infinities.
template <class T>
ONNXFIT_HOST_DEVICE inline std::int16_t OrderedKey(T x) {
  const auto sign = static_cast<std::int16_t>(static_cast<std::int16_t>(x.bits) >> 15);
  return static_cast<std::int16_t>(((x.bits & 0x7fff) ^ sign) - sign);
}

// x <= jump, false when either is NaN.
template <class T>
ONNXFIT_HOST_DEVICE inline bool AtMost(T x, T jump) {
  const std::int16_t x_key = OrderedKey(x);
  const std::int16_t jump_key = OrderedKey(jump);
  return -T::kInfinity <= x_key && x_key <= jump_key && jump_key <= T::kInfinity;
}

ONNXFIT_HOST_DEVICE inline bool AtMost(float x, float jump) { return x <= jump; }
ONNXFIT_HOST_DEVICE inline bool AtMost(double x, double jump) { return x <= jump; }

// Zero up to and including the jump, the identity above it; NaN passes through.
template <class T>
ONNXFIT_HOST_DEVICE inline T JumpRelu(T x, T jump) {
  return AtMost(x, jump) ? T{} : x;
}

// Round a finite float >= 0 to T, ties to even. This is the one place where a `jump` attribute gets X's type.
template <class T>
T RoundJump(float jump);

template <>
inline float RoundJump<float>(float jump) {
  return jump;
}

template <>
inline double RoundJump<double>(float jump) {
  return jump;
}

template <>
inline BFloat16 RoundJump<BFloat16>(float jump) {
  std::uint32_t bits;
  std::memcpy(&bits, &jump, sizeof bits);
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
inline Float16 RoundJump<Float16>(float jump) {
  if (jump < 0x1p-14f) {  // A subnormal counts multiples of 2^-24.
    return {static_cast<std::uint16_t>(std::nearbyint(jump * 0x1p24f))};
  }
  std::uint32_t bits;
  std::memcpy(&bits, &jump, sizeof bits);
  bits -= (127 - 15) << 23;  // The exponents of the two formats are biased by 127 and by 15.
  const std::uint32_t rounded = (bits + 0xfff + (bits >> 13 & 1)) >> 13;
  return {static_cast<std::uint16_t>(rounded < Float16::kInfinity ? rounded : Float16::kInfinity)};
}

}  // namespace onnxfit
