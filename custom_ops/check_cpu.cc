// Compares the CPU kernels of each instruction set with the scalar definition, bit for bit, and that with the formats.
//
// Meant to be built with -fsanitize=address,undefined, together with broadcast.cc and the cpu_*.cc. Prints the paths
// that this processor can run; exits 1 at the first difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "add.h"
#include "broadcast.h"
#include "check_cases.h"
#include "cpu_path.h"
#include "kernels.h"

#if ONNXFIT_X86_PATHS && !defined(_MSC_VER)
#include <cpuid.h>
#endif

namespace onnxfit::check {
namespace {

void Require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::exit(1);
  }
}

#if ONNXFIT_X86_PATHS && !defined(_MSC_VER)
// What XINUSE says of the upper parts of vector registers.
bool MarkedInUse() {
  constexpr unsigned kUpperParts = 1u << 2 | 1u << 6;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
  return (low & kUpperParts) != 0;
}

// Whether XINUSE is there, and says of registers that were cleared just now that they are.
bool MarksAreKept() {
  unsigned eax, ebx, ecx, edx;
  if (!__builtin_cpu_supports("avx") || !__get_cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx) || (eax & 1u << 2) == 0) {
    return false;
  }
  __asm__ volatile("vzeroupper");
  return !MarkedInUse();
}
#endif

// Whether the upper part of a vector register is in use: until it is cleared, instructions of SSE are slower, those of
// ONNX Runtime too. False where the processor does not tell.
bool UpperPartsAreInUse() {
#if ONNXFIT_X86_PATHS && !defined(_MSC_VER)
  static const bool tells = MarksAreKept();
  return tells && MarkedInUse();
#else
  return false;
#endif
}

// Runs around the width of a vector of any type; few and many of them; jumps that fit into scratch and that do not.
std::vector<Case> CpuCases() {
  std::vector<Case> cases;
  for (const Case& shapes : Cases()) {
    if (Count(shapes.x) < 10000) {
      cases.push_back(shapes);
    }
  }
  for (const std::int64_t run :
       {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 49, 63, 64, 65, 130, 257, 1030}) {
    cases.push_back({{run}, {}});
    cases.push_back({{run}, {run}});
    cases.push_back({{37, run}, {37, 1}});
    cases.push_back({{3, 7, run}, {7, 1}});
    cases.push_back({{41, run}, {run}});
    cases.push_back({{5, 6, 3, run}, {6, 1, run}});
    cases.push_back({{5, 6, 3, run}, {5, 1, 3, 1}});
  }
  for (const std::int64_t run : {2, 3, 40}) {
    cases.push_back({{2, 4501, run}, {4501, 1}});
  }
  cases.push_back({{3, 5000}, {5000}});
  // As many jumps as are laid out at most, of elements of 8, 4 and 2 bytes.
  for (const std::int64_t run : {2048, 4096, 8192}) {
    cases.push_back({{3, run}, {run}});
  }
  // Rows of each length, each with a jump, so many that tiles of all widths are whole and not.
  for (std::int64_t row = 1; row <= 130; ++row) {
    cases.push_back({{2, 67, row}, {67, 1}});
  }
  for (const std::int64_t row : {196, 255, 256, 257}) {
    cases.push_back({{2, 67, row}, {67, 1}});
  }
  // The channels of several samples that are whole tiles, or one jump more.
  for (const std::int64_t row : {49, 130}) {
    cases.push_back({{3, 64, row}, {64, 1}});
    cases.push_back({{5, 33, row}, {33, 1}});
  }
  // A range that ends a few elements behind a long row, whose last vector is not whole.
  cases.push_back({{19, 257}, {19, 1}});
  cases.push_back({{21, 300}, {21, 1}});
  for (const std::int64_t rows : {2, 4, 8, 16, 32}) {
    cases.push_back({{rows, 2}, {rows, 1}});
  }
  return cases;
}

// The operands of a case, J, and the bits that must come out.
template <class T>
struct Expected {
  explicit Expected(const Case& c)
      : shapes(c), a(EdgeValues<T>(Count(c.x), 0)), b(SecondValues<T>(Count(c.x))), j(EdgeValues<T>(Count(c.j), 4)) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      const T jump = j[static_cast<std::size_t>(JumpIndex(c.x, c.j, static_cast<std::int64_t>(i)))];
      result.push_back(JumpRelu(a[i], jump));
      sum_result.push_back(JumpRelu(Add(a[i], b[i]), jump));
    }
    const Broadcast layout = MakeBroadcast(c.x, c.j);
    can_be_longer = layout.runs == 1 || layout.stride[0] == 0;
  }

  Case shapes;
  std::vector<T> a, b, j, result, sum_result;
  bool can_be_longer = false;  // The same jumps are right for the start of a tensor of more samples.
};

// One pass over a range, in two parts of which the first ends at `middle`.
struct Call {
  bool adds;
  int in_place;  // The operand that Y replaces, or -1.
  bool shifted;  // All memory starts one element late.
  double middle;
  bool is_far;  // Operands are the start of tensors that do not fit into a core's own caches.
};

template <class T>
void CheckCall(const Expected<T>& expected, const Call& call) {
  const auto count = static_cast<std::int64_t>(expected.a.size());
  Buffer<T> operands[] = {{expected.a, call.shifted}, {expected.b, call.shifted}};
  Buffer<T> own(expected.a, call.shifted);
  Buffer<T> jumps(expected.j, call.shifted);
  T* const y = call.in_place < 0 ? own.data() : operands[call.in_place].data();
  Broadcast layout = MakeBroadcast(expected.shapes.x, expected.shapes.j);
  if (call.is_far) {
    layout.size[0] <<= 25;  // So many samples that these are larger than kFarBytes, whatever their type.
  }
  const auto pass = [&](std::int64_t begin, std::int64_t end) {
    call.adds ? AddJumpReluCpu(operands[0].data(), operands[1].data(), y, begin, end, jumps.data(), layout)
              : JumpReluCpu(operands[0].data(), y, begin, end, jumps.data(), layout);
    Require(!UpperPartsAreInUse(), "the upper parts of registers are left in use");
  };
  const auto middle = static_cast<std::int64_t>(call.middle * static_cast<double>(count));
  pass(middle, count);
  pass(0, middle);

  const std::vector<T>& right = call.adds ? expected.sum_result : expected.result;
  for (std::size_t i = 0; i < right.size(); ++i) {
    // The bits of a NaN that a sum makes depend on the hardware.
    if (ToBits(right[i]) != ToBits(y[i]) &&
        !(call.adds && std::isnan(Decode(right[i])) && std::isnan(Decode(y[i])))) {
      const std::string what = std::string(CpuPathInUse()) + ", " + Format<T>::kName + (call.adds ? ", sums" : "") +
                               ": element " + std::to_string(i) + " of " + ToString(expected.shapes.x) + " with J " +
                               ToString(expected.shapes.j);
      Require(false, what.c_str());
    }
  }
}

template <class T>
void CheckKernels(const std::vector<const char*>& paths) {
  for (const Case& shapes : CpuCases()) {
    const Expected<T> expected(shapes);
    for (const char* const path : paths) {
      UseCpuPath(path);
      for (const bool shifted : {false, true}) {
        for (const double middle : {0.0, 0.37, 0.81}) {
          for (const bool is_far : {false, true}) {
            if (is_far && !expected.can_be_longer) {
              continue;
            }
            for (const int in_place : {-1, 0}) {
              CheckCall(expected, {false, in_place, shifted, middle, is_far});
            }
            for (const int in_place : {-1, 0, 1}) {
              CheckCall(expected, {true, in_place, shifted, middle, is_far});
            }
          }
        }
      }
    }
  }
}

template <class T>
T FromBits(std::uint64_t bits) {
  const auto narrow = static_cast<typename Format<T>::Bits>(bits);
  T value;
  std::memcpy(&value, &narrow, sizeof value);
  return value;
}

// The scalar definition agrees with the values that the formats define, for all pairs.
template <class T>
void CheckDefinition() {
  const std::vector<T> values = EdgeValues<T>(kEdges, 0);
  for (const T& x : values) {
    for (const T& jump : values) {
      const auto expected = Decode(x) <= Decode(jump) ? typename Format<T>::Bits{0} : ToBits(x);
      Require(ToBits(JumpRelu(x, jump)) == expected, "the definition, as values");
    }
  }
}

// Every float >= 0 rounds to the nearest 16-bit value, to the even one of two that are equally near.
template <class T>
void CheckRounding() {
  using Bits = typename Format<T>::Bits;
  const auto value = [](Bits bits) { return FromBits<T>(bits); };
  for (Bits bits = 0; bits + 1 < Format<T>::kInfinity; ++bits) {
    const auto low = static_cast<float>(Decode(value(bits)));
    const auto high = static_cast<float>(Decode(value(static_cast<Bits>(bits + 1))));
    const float middle = low + (high - low) / 2;
    Require(ToBits(RoundJump<T>(low)) == bits, "a representable jump stays as it is");
    Require(ToBits(RoundJump<T>(middle)) == bits + bits % 2, "halfway goes to even");
    Require(ToBits(RoundJump<T>(std::nextafterf(middle, 0))) == bits, "below halfway goes down");
    Require(ToBits(RoundJump<T>(std::nextafterf(middle, high))) == bits + 1, "above halfway goes up");
  }
  Require(ToBits(RoundJump<T>(std::numeric_limits<float>::max())) == Format<T>::kInfinity, "too large is infinite");
}

// All 16-bit values beside jumps of all signs and kinds: the definition, and the kernels, with one jump and with a jump
// for each element.
template <class T>
void CheckAllValues(const std::vector<const char*>& paths) {
  constexpr std::int64_t kValues = 0x10000;
  std::vector<T> x;
  for (std::uint32_t bits = 0; bits < kValues; ++bits) {
    x.push_back(FromBits<T>(bits));
  }
  const std::vector<T> jumps = EdgeValues<T>(kEdges, 0);
  for (const T& jump : jumps) {
    for (std::uint32_t bits = 0; bits < kValues; ++bits) {
      const std::uint32_t expected = Decode(x[bits]) <= Decode(jump) ? 0 : bits;
      Require(ToBits(JumpRelu(x[bits], jump)) == expected, "the definition, for all 16-bit values");
    }
  }
  for (const char* const path : paths) {
    UseCpuPath(path);
    for (std::size_t i = 0; i < kEdges; ++i) {
      std::vector<T> rotated(kEdges);
      std::rotate_copy(jumps.begin(), jumps.begin() + static_cast<std::ptrdiff_t>(i), jumps.end(), rotated.begin());
      std::vector<T> same(x.size()), own(x.size());
      JumpReluCpu(x.data(), same.data(), 0, kValues, &jumps[i], SameEverywhere(kValues));
      JumpReluCpu(x.data(), own.data(), 0, kValues - kValues % kEdges, rotated.data(),
                  MakeBroadcast(Shape{kValues / kEdges, kEdges}, Shape{kEdges}));
      const auto wrong = [&](std::size_t at) {
        const bool laid_out = at < x.size() - x.size() % kEdges;
        return ToBits(same[at]) != ToBits(JumpRelu(x[at], jumps[i])) ||
               (laid_out && ToBits(own[at]) != ToBits(JumpRelu(x[at], rotated[at % kEdges])));
      };
      for (std::size_t at = 0; at < x.size(); ++at) {
        if (wrong(at)) {
          const std::string what = std::string(path) + ", " + Format<T>::kName + ": value " + std::to_string(at);
          Require(false, what.c_str());
        }
      }
    }
  }
}

// A sum of two 16-bit values is the value nearest to the exact sum, the even one of two that are equally near.
template <class T>
void CheckSums() {
  using F = Format<T>;
  for (const T& a : EdgeValues<T>(kEdges, 0)) {
    for (std::uint32_t bits = 0; bits < 0x10000; bits += 7) {
      const T b = FromBits<T>(bits);
      const double exact = Decode(a) + Decode(b);
      const T sum = Add(a, b);
      if (std::isnan(exact)) {
        Require(std::isnan(Decode(sum)) && (ToBits(sum) & F::kNormal / 2) != 0, "a quiet NaN");
        continue;
      }
      const std::uint32_t magnitude = ToBits(sum) & 0x7fffu;
      Require(magnitude <= F::kInfinity && (std::signbit(exact) == std::signbit(Decode(sum))), "the sum's sign");
      if (magnitude == F::kInfinity || exact == 0) {
        const double largest = Decode(FromBits<T>(F::kInfinity - 1u));
        Require(exact == 0 ? magnitude == 0 : std::abs(exact) > largest, "zero and infinity");
        continue;
      }
      const double low = magnitude ? Decode(FromBits<T>(magnitude - 1u)) : 0;
      const double own = Decode(FromBits<T>(magnitude));
      const double high = magnitude + 1 < F::kInfinity ? Decode(FromBits<T>(magnitude + 1u)) : own + (own - low);
      const double below = (low + own) / 2;
      const double above = (own + high) / 2;
      const double size = std::abs(exact);
      Require(magnitude % 2 == 0 ? below <= size && size <= above : below < size && size < above, "the nearest sum");
    }
  }
}

int Main() {
  CheckDefinition<float>();
  CheckDefinition<double>();
  CheckDefinition<Float16>();
  CheckDefinition<BFloat16>();
  CheckRounding<Float16>();
  CheckRounding<BFloat16>();
  CheckSums<Float16>();
  CheckSums<BFloat16>();
  std::vector<const char*> paths;
  for (const char* const path : {"baseline", "avx2", "avx512"}) {
    if (UseCpuPath(path)) {
      paths.push_back(path);
    }
  }
  CheckAllValues<Float16>(paths);
  CheckAllValues<BFloat16>(paths);
  CheckKernels<float>(paths);
  CheckKernels<double>(paths);
  CheckKernels<Float16>(paths);
  CheckKernels<BFloat16>(paths);
  for (const char* const path : paths) {
    std::printf("%s ", path);
  }
  std::puts("checked");
  return 0;
}

}  // namespace
}  // namespace onnxfit::check

int main() { return onnxfit::check::Main(); }
