// a + b rounded once to the type, ties to even: what ONNX's Add computes before AddJumpReLU compares.
//
// A 16-bit sum is made in float, which is wide enough for the second rounding to change nothing. The bits of a NaN
// depend on the hardware that adds; it is always quiet.
#pragma once

#include <cstdint>
#include <cstring>

#include "jump_relu.h"

namespace onnxfit {

ONNXFIT_HOST_DEVICE inline std::uint32_t FloatBits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

ONNXFIT_HOST_DEVICE inline float FloatOfBits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

ONNXFIT_HOST_DEVICE inline float Widen(BFloat16 x) { return FloatOfBits(static_cast<std::uint32_t>(x.bits) << 16); }

// A choice between two numbers that are both at hand. Compilers vectorise it, and give `?:` a branch of its own.
ONNXFIT_HOST_DEVICE inline std::uint32_t Choose(bool first, std::uint32_t a, std::uint32_t b) {
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(first);
  return (a & mask) | (b & ~mask);
}

ONNXFIT_HOST_DEVICE inline float Widen(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  const std::uint32_t bias = Choose(magnitude < 0x7c00, (127u - 15) << 23, (255u - 31) << 23);
  const std::uint32_t normal = (magnitude << 13) + bias;
  const std::uint32_t subnormal = FloatBits(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  return FloatOfBits(sign | Choose(magnitude < 0x0400, subnormal, normal));
}

template <class T>
ONNXFIT_HOST_DEVICE inline T Narrow(float x);

template <>
ONNXFIT_HOST_DEVICE inline BFloat16 Narrow<BFloat16>(float x) {
  const std::uint32_t bits = FloatBits(x);
  const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {static_cast<std::uint16_t>(Choose((bits & 0x7fffffff) > 0x7f800000, 0x7fc0, rounded))};
}

template <>
ONNXFIT_HOST_DEVICE inline Float16 Narrow<Float16>(float x) {
  const std::uint32_t bits = FloatBits(x);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const std::uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  const std::uint32_t normal = (rounded - ((127u - 15) << 23)) >> 13;
  // Next to 0.5 a float counts multiples of 2^-24, as a subnormal does.
  const std::uint32_t subnormal = FloatBits(FloatOfBits(magnitude) + 0.5f) - FloatBits(0.5f);
  const std::uint32_t finite = Choose(magnitude < 0x38800000, subnormal, normal);
  const std::uint32_t beyond = Choose(magnitude > 0x7f800000, 0x7e00, 0x7c00);
  return {static_cast<std::uint16_t>((bits >> 16 & 0x8000) | Choose(magnitude < 0x47800000, finite, beyond))};
}

ONNXFIT_HOST_DEVICE inline float Add(float a, float b) { return a + b; }
ONNXFIT_HOST_DEVICE inline double Add(double a, double b) { return a + b; }

template <class T>
ONNXFIT_HOST_DEVICE inline T Add(T a, T b) {
  return Narrow<T>(Widen(a) + Widen(b));
}

}  // namespace onnxfit
