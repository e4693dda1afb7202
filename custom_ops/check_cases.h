// What the checks of the CPU and the CUDA kernels have in common: edge values, shapes and a plain reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <vector>

#include "jump_relu.h"

namespace onnxfit::check {

using Shape = std::vector<std::int64_t>;

inline std::int64_t Count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<std::int64_t>());
}

// A type's bits and its landmarks: the smallest normal number, a jump of 0.3 rounded to it, and infinity.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr const char* kName = "float";
  static constexpr Bits kNormal = 0x00800000, kJump = 0x3e99999a, kInfinity = 0x7f800000;
};
template <>
struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr const char* kName = "double";
  static constexpr Bits kNormal = 0x0010000000000000, kJump = 0x3fd3333340000000, kInfinity = 0x7ff0000000000000;
};
template <>
struct Format<Float16> {
  using Bits = std::uint16_t;
  static constexpr const char* kName = "float16";
  static constexpr Bits kNormal = 0x0400, kJump = 0x34cd, kInfinity = 0x7c00;
};
template <>
struct Format<BFloat16> {
  using Bits = std::uint16_t;
  static constexpr const char* kName = "bfloat16";
  static constexpr Bits kNormal = 0x0080, kJump = 0x3e9a, kInfinity = 0x7f80;
};

inline constexpr float kJump = 0.3f;
inline constexpr std::size_t kEdges = 24;  // So many values has EdgeValues.

template <class T>
typename Format<T>::Bits ToBits(const T& value) {
  typename Format<T>::Bits bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The value as a double, from the format's definition and not from the code under test.
template <class T>
double Decode(const T& value) {
  using F = Format<T>;
  const auto bits = ToBits(value);
  const std::uint64_t magnitude = bits & (~std::uint64_t{0} >> (64 - 8 * sizeof(T) + 1));
  const double sign = magnitude == bits ? 1 : -1;
  if (magnitude > F::kInfinity) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (magnitude == F::kInfinity) {
    return sign * std::numeric_limits<double>::infinity();
  }
  const std::uint64_t fraction = magnitude % F::kNormal;
  const int exponent = static_cast<int>(magnitude / F::kNormal);
  const int bias = static_cast<int>(F::kInfinity / F::kNormal) / 2;
  const double mantissa = static_cast<double>(exponent ? fraction + F::kNormal : fraction);
  const int scale = (exponent ? exponent : 1) - bias;
  return sign * std::ldexp(mantissa / static_cast<double>(F::kNormal), scale);
}

// Zeros, subnormals, the neighbours of each landmark, infinities and NaNs with payloads, in both signs, repeated.
template <class T>
std::vector<T> EdgeValues(std::int64_t count, std::size_t offset) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  std::vector<Bits> edges{0, 1, static_cast<Bits>(kSign - 1)};
  for (const Bits landmark : {F::kNormal, F::kJump, F::kInfinity}) {
    for (const int step : {-1, 0, 1}) {
      edges.push_back(static_cast<Bits>(landmark + step));
    }
  }
  const std::size_t positive = edges.size();
  for (std::size_t i = 0; i < positive; ++i) {
    edges.push_back(static_cast<Bits>(edges[i] | kSign));
  }

  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::memcpy(&values[i], &edges[(i + offset) % edges.size()], sizeof(T));
  }
  return values;
}

// The same values, in an order in which each meets all others of EdgeValues at the same place.
template <class T>
std::vector<T> SecondValues(std::int64_t count) {
  const std::vector<T> edges = EdgeValues<T>(kEdges, 0);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = edges[(i + i / kEdges) % kEdges];
  }
  return values;
}

// Element i of X reads this element of a J that broadcasts to X.
inline std::int64_t JumpIndex(const Shape& x_shape, const Shape& j_shape, std::int64_t i) {
  std::int64_t index = 0;
  std::int64_t stride = 1;
  for (std::size_t back = 1; back <= x_shape.size(); ++back) {
    const std::int64_t x_size = x_shape[x_shape.size() - back];
    if (back <= j_shape.size() && j_shape[j_shape.size() - back] != 1) {
      index += i % x_size * stride;
      stride *= x_size;
    }
    i /= x_size;
  }
  return index;
}

// A buffer that ends where its values end, optionally starting one element past a 16-byte boundary.
template <class T>
class Buffer {
 public:
  Buffer(const std::vector<T>& values, bool shifted)
      : raw_(std::malloc((values.size() + shifted) * sizeof(T))), data_(static_cast<T*>(raw_) + shifted) {
    if (!values.empty()) {
      std::memcpy(data_, values.data(), values.size() * sizeof(T));
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(raw_); }
  T* data() { return data_; }

 private:
  void* raw_;
  T* data_;
};

struct Case {
  Shape x;
  Shape j;
};

// Scalar, per-channel, per-element and generally broadcast jumps, over empty, odd and large tensors.
inline std::vector<Case> Cases() {
  return {
      {{}, {}},
      {{0}, {}},
      {{1}, {1}},
      {{7}, {}},
      {{31}, {31}},
      {{3, 0, 2}, {3, 1, 1}},
      {{3, 0, 2}, {0, 1}},
      {{2, 3, 5, 7}, {}},
      {{2, 3, 5, 7}, {1, 1, 1, 1}},
      {{2, 3, 5, 7}, {3, 1, 1}},
      {{2, 3, 5, 7}, {5, 7}},
      {{2, 3, 5, 7}, {7}},
      {{2, 3, 5, 7}, {5, 1}},
      {{2, 3, 5, 7}, {2, 1, 1, 1}},
      {{2, 3, 5, 7}, {2, 1, 5, 1}},
      {{2, 3, 5, 7}, {3, 1, 7}},
      {{2, 3, 5, 7}, {2, 3, 5, 7}},
      {{1, 4, 1, 9}, {4, 1, 1}},
      {{2, 64, 16, 16}, {64, 1, 1}},
      {{3, 2, 3, 2, 3, 2}, {3, 1, 3, 1, 3, 1}},
      {{2, 1, 2, 1, 2, 1, 2, 1, 2, 3}, {2, 1, 1, 1, 2, 1, 1, 1, 2, 1}},
      {{200003}, {}},
      {{200003}, {200003}},
      {{3, 257, 13, 17}, {257, 1, 1}},
      {{3, 257, 13, 17}, {3, 1, 13, 1}},
  };
}

}  // namespace onnxfit::check
