// The CPU kernels for x86 processors with AVX-512 (F, BW).
#include "cpu_path.h"

#if ONNXFIT_X86_PATHS

#include <cstdint>
#include <cstring>

// GCC 12 takes what its own intrinsics leave undefined on purpose for a mistake of this file's.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

// For the functions below and for none of a header that other files share. MSVC takes intrinsics anywhere.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw")
#endif

namespace onnxfit {
namespace {

// Elements of type T: `Join` takes the first `lanes` of `a` and the others of `b`; `Pick` takes those of `a` that a
// vector of `Index` names; `JumpRelu` takes prepared jumps.
template <class T>
struct Vec;

// Jumps that repeat more often than this are not picked: by then it is faster without, or the index too long.
template <class T>
constexpr int kLongestPicked = 256;

template <>
struct Vec<float> {
  using Reg = __m512;
  static constexpr int kLanes = 16;
  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static Reg Splat(float x) { return _mm512_set1_ps(x); }
  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Join(Reg a, Reg b, std::int64_t lanes) {
    return _mm512_mask_mov_ps(a, static_cast<__mmask16>(~0u << lanes), b);
  }
  static std::uint32_t Index(std::uint32_t lane) { return lane; }
  static Reg Pick(Reg a, Reg index) { return _mm512_permutexvar_ps(_mm512_castps_si512(index), a); }
  static Reg Prepare(Reg jump) { return jump; }
  static Reg JumpRelu(Reg x, Reg jump) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, jump, _CMP_NLE_UQ), x); }
};

template <>
struct Vec<double> {
  using Reg = __m512d;
  static constexpr int kLanes = 8;
  static Reg Load(const double* p) { return _mm512_loadu_pd(p); }
  static void Store(double* p, Reg x) { _mm512_storeu_pd(p, x); }
  static Reg Splat(double x) { return _mm512_set1_pd(x); }
  static Reg Add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  static Reg Join(Reg a, Reg b, std::int64_t lanes) {
    return _mm512_mask_mov_pd(a, static_cast<__mmask8>(~0u << lanes), b);
  }
  static std::uint64_t Index(std::uint64_t lane) { return lane; }
  static Reg Pick(Reg a, Reg index) { return _mm512_permutexvar_pd(_mm512_castpd_si512(index), a); }
  static Reg Prepare(Reg jump) { return jump; }
  static Reg JumpRelu(Reg x, Reg jump) { return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, jump, _CMP_NLE_UQ), x); }
};

// A vector that stays in its register: GCC 12 would read it once more for each use, which takes longer than the use.
__m512i Held(__m512i x) {
#if defined(__GNUC__)
  __asm__("" : "+v"(x));
#endif
  return x;
}

// What both 16-bit types share: comparisons of integers, as in jump_relu.h.
template <class T>
struct Vec16 {
  using Reg = __m512i;
  static constexpr int kLanes = 32;
  static Reg Load(const T* p) { return Held(_mm512_loadu_si512(p)); }
  static void Store(T* p, Reg x) { _mm512_storeu_si512(p, x); }
  static Reg Splat(T x) { return _mm512_set1_epi16(static_cast<std::int16_t>(x.bits)); }

  static Reg Join(Reg a, Reg b, std::int64_t lanes) {
    return _mm512_mask_mov_epi16(a, static_cast<__mmask32>(~std::uint64_t{0} << lanes), b);
  }

  static std::uint16_t Index(std::uint16_t lane) { return lane; }
  static Reg Pick(Reg a, Reg index) { return _mm512_permutexvar_epi16(index, a); }

  // The values in their order as unsigned numbers from -infinity on, -0 below 0, NaN of either sign above infinity. A
  // comparison that makes a mask takes as long as a store, so that there is only one.
  static Reg Rank(Reg x) {
    constexpr int kSecondXorBothOthers = 0x6c;
    const Reg sign = _mm512_srai_epi16(x, 15);
    const Reg key = _mm512_ternarylogic_epi32(sign, x, _mm512_set1_epi16(0x7fff), kSecondXorBothOthers);
    return _mm512_add_epi16(key, _mm512_set1_epi16(static_cast<std::int16_t>(T::kInfinity + 1)));
  }

  // The lowest rank that is above the jump: 0 where that is NaN. That 0 is above -0 does not show: 0 is what comes out.
  static Reg Prepare(Reg jump) {
    const Reg rank = Rank(jump);
    const Reg infinity = _mm512_set1_epi16(static_cast<std::int16_t>(2 * T::kInfinity + 1));
    return _mm512_maskz_add_epi16(_mm512_cmple_epu16_mask(rank, infinity), rank, _mm512_set1_epi16(1));
  }

  static Reg JumpRelu(Reg x, Reg prepared) {
    return _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(Rank(x), prepared), x);
  }
};

template <>
struct Vec<Float16> : Vec16<Float16> {
  static Reg Add(Reg a, Reg b) {
    const __m256i low = Sum(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b));
    const __m256i high = Sum(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

 private:
  static __m256i Sum(__m256i a, __m256i b) {
    return _mm512_cvtps_ph(_mm512_add_ps(_mm512_cvtph_ps(a), _mm512_cvtph_ps(b)), _MM_FROUND_TO_NEAREST_INT);
  }
};

template <>
struct Vec<BFloat16> : Vec16<BFloat16> {
  static Reg Add(Reg a, Reg b) {
    // Unpacking and packing stay within 128 bits, so that the order comes back.
    const Reg zero = _mm512_setzero_si512();
    const Reg low = Sum(_mm512_unpacklo_epi16(zero, a), _mm512_unpacklo_epi16(zero, b));
    const Reg high = Sum(_mm512_unpackhi_epi16(zero, a), _mm512_unpackhi_epi16(zero, b));
    return _mm512_packus_epi32(low, high);
  }

 private:
  // The sum of floats, rounded to the upper half of their bits, which it returns in the lower half.
  static Reg Sum(Reg a, Reg b) {
    const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
    const Reg bits = _mm512_castps_si512(sum);
    const Reg odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const Reg rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
  }
};

}  // namespace
}  // namespace onnxfit

#include "cpu_vectors.h"

namespace onnxfit {

// No code runs when the library is loaded: it would have this file's instructions.
constexpr CpuPath kAvx512Path = PathOf<VectorPasses>("avx512");

}  // namespace onnxfit

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // ONNXFIT_X86_PATHS
