// Compares the CUDA kernels with the scalar definition, bit for bit: on a GPU in bench_jump_relu.cu, and without one in
// check_cuda.cc. `Memory` is a device buffer of an exact size, so that tools see an access beyond its end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "add.h"
#include "broadcast.h"
#include "check_cases.h"
#include "kernels.h"

namespace onnxfit::check {

// Which of the inputs Y replaces.
enum class InPlace { kNone, kFirst, kSecond, kBoth };

// One call. A shift is in elements, and takes a tensor off a 16-byte boundary.
struct Call {
  bool adds = false;
  bool with_j = false;
  InPlace in_place = InPlace::kNone;
  int first_shift = 0;
  int second_shift = 0;
  int y_shift = 0;
  int j_shift = 0;
};

// Every pair of edge values, then pairs of any bits.
template <class T>
std::vector<T> Addends(std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const std::vector<T> edges = EdgeValues<T>(24, 0);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto bits = static_cast<typename Format<T>::Bits>(random());
    std::memcpy(&values[i], &bits, sizeof(T));
    if (i < 24 * 24) {
      values[i] = edges[(i / 24 + i) % 24];
    }
  }
  return values;
}

template <class T>
T RoundedJump() {
  T jump;
  std::memcpy(&jump, &Format<T>::kJump, sizeof(T));
  return jump;
}

template <class T>
bool IsNan(const T& value) {
  return (ToBits(value) & ~(typename Format<T>::Bits{1} << (8 * sizeof(T) - 1))) > Format<T>::kInfinity;
}

// Hardware makes NaNs with bits of its own; a sum that is NaN has the quiet bit, the highest of the fraction.
template <class T>
bool IsRight(const T& expected, const T& actual, bool adds) {
  return adds && IsNan(expected) ? IsNan(actual) && (ToBits(actual) & Format<T>::kNormal / 2) != 0
                                 : ToBits(expected) == ToBits(actual);
}

template <class T, class Memory>
std::optional<std::string> Fault(const Case& shapes, const Call& call) {
  const std::int64_t count = Count(shapes.x);
  const std::vector<T> a = EdgeValues<T>(count, 0);
  const std::vector<T> b = call.in_place == InPlace::kBoth ? a : Addends<T>(count);
  const std::vector<T> j = EdgeValues<T>(Count(shapes.j), 4);
  Memory a_memory(a, call.first_shift);
  Memory b_memory(b, call.second_shift);
  Memory y_memory(a, call.y_shift);
  Memory j_memory(j, call.j_shift);
  T* const a_data = a_memory.template data<T>();
  T* const b_data = call.in_place == InPlace::kBoth ? a_data : b_memory.template data<T>();
  T* const y_data = call.in_place == InPlace::kNone     ? y_memory.template data<T>()
                    : call.in_place == InPlace::kSecond ? b_data
                                                        : a_data;
  const T* const jump = call.with_j ? j_memory.template data<T>() : nullptr;
  const Broadcast layout = MakeBroadcast(shapes.x, call.with_j ? shapes.j : Shape{});
  const char* const error =
      call.adds ? AddJumpReluCuda<T>(a_data, b_data, y_data, count, jump, RoundedJump<T>(), layout, nullptr)
                : JumpReluCuda<T>(a_data, y_data, count, jump, RoundedJump<T>(), layout, nullptr);
  if (error != nullptr) {
    return error;
  }

  const std::vector<T> y = Memory::template Read<T>(y_data, count);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const T x = call.adds ? Add(a[at], b[at]) : a[at];
    const T own_jump = call.with_j ? j[static_cast<std::size_t>(JumpIndex(shapes.x, shapes.j, i))] : RoundedJump<T>();
    if (!IsRight(JumpRelu(x, own_jump), y[at], call.adds)) {
      char text[160];
      std::snprintf(text, sizeof text, "%s: element %lld of %lld (adds %d, J %d, in place %d, shifts %d %d %d %d)",
                    Format<T>::kName, static_cast<long long>(i), static_cast<long long>(count), call.adds, call.with_j,
                    static_cast<int>(call.in_place), call.first_shift, call.second_shift, call.y_shift, call.j_shift);
      return text;
    }
  }
  return std::nullopt;
}

// The shapes of all kernels, and those that only packs of 16 bytes make difficult.
inline std::vector<Case> CudaCases() {
  std::vector<Case> cases = Cases();
  for (const std::int64_t count : {2, 8, 15, 16, 17, 1023, 2047, 4096, 4097, 16384 + 7}) {
    cases.push_back({{count}, {}});
    cases.push_back({{count}, {count}});
  }
  // Rows shorter than a pack, as long as one, and a little longer; on the last axis and before it.
  for (const std::int64_t row : {2, 3, 4, 5, 8, 9, 12, 16, 24, 49, 50}) {
    cases.push_back({{7, 33, row}, {33, 1}});
    cases.push_back({{311, row}, {row}});
    cases.push_back({{5, 6, 11, row}, {6, 1, row}});
    cases.push_back({{5, 6, 11, row}, {5, 1, 11, 1}});
  }
  return cases;
}

inline std::vector<Call> Calls() {
  std::vector<Call> calls;
  for (const bool with_j : {false, true}) {
    for (const int shift : {0, 1}) {
      calls.push_back({false, with_j, InPlace::kNone, shift, 0, shift, 0});
      calls.push_back({false, with_j, InPlace::kFirst, shift, 0, 0, shift});
      calls.push_back({true, with_j, InPlace::kNone, shift, shift, shift, 0});
      calls.push_back({true, with_j, InPlace::kFirst, 0, shift, 0, 0});
      calls.push_back({true, with_j, InPlace::kSecond, shift, 0, 0, 0});
      calls.push_back({true, with_j, InPlace::kBoth, 0, 0, 0, shift});
    }
    calls.push_back({false, with_j, InPlace::kNone, 0, 0, 0, 1});
    calls.push_back({false, with_j, InPlace::kNone, 1, 0, 0, 0});
    calls.push_back({false, with_j, InPlace::kNone, 0, 0, 1, 0});
  }
  return calls;
}

template <class T, class Memory>
std::optional<std::string> FirstFault() {
  constexpr std::int64_t kLarge = 100000;
  const std::vector<Call> calls = Calls();
  for (const Case& shapes : CudaCases()) {
    // Large tensors are there for the number of blocks, which no shift changes.
    for (std::size_t i = 0; i < calls.size(); i += Count(shapes.x) < kLarge ? 1 : 5) {
      if (std::optional<std::string> fault = Fault<T, Memory>(shapes, calls[i])) {
        return fault;
      }
    }
  }
  return std::nullopt;
}

// What differs first, of any type; nothing when all is right.
template <class Memory>
std::optional<std::string> FirstFaultOfAll() {
  for (const auto faults : {FirstFault<float, Memory>, FirstFault<double, Memory>, FirstFault<Float16, Memory>,
                            FirstFault<BFloat16, Memory>}) {
    if (std::optional<std::string> fault = faults()) {
      return fault;
    }
  }
  return std::nullopt;
}

}  // namespace onnxfit::check
