// The CPU kernels for x86 processors with AVX2 and F16C.
#include "cpu_path.h"

#if ONNXFIT_X86_PATHS

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// For the functions below and for none of a header that other files share. MSVC takes intrinsics anywhere.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,f16c")
#endif

namespace onnxfit {
namespace {

// Zeros in the first `bytes` of a vector, ones in the others.
__m256i From(std::int64_t bytes) {
  alignas(64) static constexpr std::int64_t kWindow[] = {0, 0, 0, 0, -1, -1, -1, -1};
  return _mm256_loadu_si256(
      reinterpret_cast<const __m256i*>(reinterpret_cast<const char*>(kWindow) + sizeof(__m256i) - bytes));
}

// Elements of type T: `Join` takes the first `lanes` of `a` and the others of `b`; `Pick` takes those of `a` that a
// vector of `Index` names; `JumpRelu` takes prepared jumps.
template <class T>
struct Vec;

// Jumps that repeat more often than this are not picked: by then it is faster without, or the index too long.
template <class T>
constexpr int kLongestPicked = sizeof(T) == 2 ? 96 : 256;

template <>
struct Vec<float> {
  using Reg = __m256;
  static constexpr int kLanes = 8;
  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg Splat(float x) { return _mm256_set1_ps(x); }
  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Join(Reg a, Reg b, std::int64_t lanes) {
    return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(From(4 * lanes)));
  }
  static std::uint32_t Index(std::uint32_t lane) { return lane; }
  static Reg Pick(Reg a, Reg index) { return _mm256_permutevar8x32_ps(a, _mm256_castps_si256(index)); }
  static Reg Prepare(Reg jump) { return jump; }
  static Reg JumpRelu(Reg x, Reg jump) { return _mm256_andnot_ps(_mm256_cmp_ps(x, jump, _CMP_LE_OQ), x); }
};

template <>
struct Vec<double> {
  using Reg = __m256d;
  static constexpr int kLanes = 4;
  static Reg Load(const double* p) { return _mm256_loadu_pd(p); }
  static void Store(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  static Reg Splat(double x) { return _mm256_set1_pd(x); }
  static Reg Add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg Join(Reg a, Reg b, std::int64_t lanes) {
    return _mm256_blendv_pd(a, b, _mm256_castsi256_pd(From(8 * lanes)));
  }
  // Both halves of an element, of which the instruction moves each by itself.
  static std::uint64_t Index(std::uint64_t lane) { return 2 * lane | (2 * lane + 1) << 32; }
  static Reg Pick(Reg a, Reg index) {
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(a), _mm256_castpd_si256(index)));
  }
  static Reg Prepare(Reg jump) { return jump; }
  static Reg JumpRelu(Reg x, Reg jump) { return _mm256_andnot_pd(_mm256_cmp_pd(x, jump, _CMP_LE_OQ), x); }
};

// What both 16-bit types share: comparisons of integers, as in jump_relu.h.
template <class T>
struct Vec16 {
  using Reg = __m256i;
  static constexpr int kLanes = 16;
  static Reg Load(const T* p) { return _mm256_loadu_si256(reinterpret_cast<const Reg*>(p)); }
  static void Store(T* p, Reg x) { _mm256_storeu_si256(reinterpret_cast<Reg*>(p), x); }
  static Reg Splat(T x) { return _mm256_set1_epi16(static_cast<std::int16_t>(x.bits)); }

  static Reg Join(Reg a, Reg b, std::int64_t lanes) { return _mm256_blendv_epi8(a, b, From(2 * lanes)); }

  // Both bytes of an element, of which the instruction moves each by itself, and only within 16.
  static std::uint16_t Index(std::uint16_t lane) { return static_cast<std::uint16_t>(2 * lane | (2 * lane + 1) << 8); }
  static Reg Pick(Reg a, Reg index) {
    const Reg low = _mm256_shuffle_epi8(_mm256_permute2x128_si256(a, a, 0x00), index);
    const Reg high = _mm256_shuffle_epi8(_mm256_permute2x128_si256(a, a, 0x11), index);
    constexpr int kToTop = 3;  // Of each byte: whether it is one of the upper 16.
    return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(index, kToTop));
  }

  // OrderedKey counted from -infinity on, as an unsigned number: NaN of either sign is above infinity.
  static Reg Rank(Reg x) {
    const Reg key = _mm256_sign_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x7fff)), x);
    return _mm256_add_epi16(key, _mm256_set1_epi16(T::kInfinity));
  }

  // The lowest rank that is above the jump: 0 where that is NaN.
  static Reg Prepare(Reg jump) {
    const Reg rank = Rank(jump);
    const Reg infinity = _mm256_set1_epi16(static_cast<std::int16_t>(2 * T::kInfinity));
    const Reg number = _mm256_cmpeq_epi16(_mm256_min_epu16(rank, infinity), rank);
    return _mm256_and_si256(number, _mm256_add_epi16(rank, _mm256_set1_epi16(1)));
  }

  static Reg JumpRelu(Reg x, Reg prepared) {
    const Reg rank = Rank(x);
    return _mm256_and_si256(_mm256_cmpeq_epi16(_mm256_max_epu16(rank, prepared), rank), x);
  }
};

template <>
struct Vec<Float16> : Vec16<Float16> {
  static Reg Add(Reg a, Reg b) {
    const __m128i low = Narrow(_mm256_add_ps(Widen(_mm256_castsi256_si128(a)), Widen(_mm256_castsi256_si128(b))));
    const __m128i high =
        Narrow(_mm256_add_ps(Widen(_mm256_extracti128_si256(a, 1)), Widen(_mm256_extracti128_si256(b, 1))));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }

 private:
  static __m256 Widen(__m128i x) { return _mm256_cvtph_ps(x); }
  static __m128i Narrow(__m256 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
};

template <>
struct Vec<BFloat16> : Vec16<BFloat16> {
  static Reg Add(Reg a, Reg b) {
    // Unpacking and packing stay within 128 bits, so that the order comes back.
    const Reg zero = _mm256_setzero_si256();
    const Reg low = Sum(_mm256_unpacklo_epi16(zero, a), _mm256_unpacklo_epi16(zero, b));
    const Reg high = Sum(_mm256_unpackhi_epi16(zero, a), _mm256_unpackhi_epi16(zero, b));
    return _mm256_packus_epi32(low, high);
  }

 private:
  // The sum of floats, rounded to the upper half of their bits, which it returns in the lower half.
  static Reg Sum(Reg a, Reg b) {
    const __m256 sum = _mm256_add_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    const Reg bits = _mm256_castps_si256(sum);
    const Reg odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const Reg rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const Reg nan = _mm256_castps_si256(_mm256_cmp_ps(sum, sum, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  }
};

}  // namespace
}  // namespace onnxfit

#include "cpu_vectors.h"

namespace onnxfit {

// No code runs when the library is loaded: it would have this file's instructions.
constexpr CpuPath kAvx2Path = PathOf<VectorPasses>("avx2");

}  // namespace onnxfit

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // ONNXFIT_X86_PATHS
