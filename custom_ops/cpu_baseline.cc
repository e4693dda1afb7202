// The CPU kernels for any processor: loops that compilers vectorise for what they may take for granted (SSE2, NEON).
#include <cstdint>

#include "add.h"
#include "cpu_path.h"
#include "jump_relu.h"

// No iteration reads what another one writes, even when y is x. Without the hint the compiler checks for overlap first;
// and GCC 12 forgets the hint where it puts the loop into its caller.
#if defined(__clang__)
#define ONNXFIT_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define ONNXFIT_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define ONNXFIT_INDEPENDENT_ITERATIONS __pragma(loop(ivdep))
#else
#define ONNXFIT_INDEPENDENT_ITERATIONS
#endif

#if defined(__GNUC__)
#define ONNXFIT_OWN_FUNCTION __attribute__((noinline))
#else
#define ONNXFIT_OWN_FUNCTION
#endif

#include "cpu_walk.h"

namespace onnxfit {
namespace {

template <class T>
T LoadElement(PlainSource<T> source, std::int64_t i) {
  return source.x[i];
}

template <class T>
T LoadElement(SumSource<T> source, std::int64_t i) {
  return Add(source.a[i], source.b[i]);
}

struct Loops {
  static constexpr bool kHasVectors = false;
  template <class T>
  static constexpr std::int64_t kLeastRun = 128 / sizeof(T);

  template <class Source, class T>
  ONNXFIT_OWN_FUNCTION static void SameJump(Source source, T* y, std::int64_t count, T jump) {
    ONNXFIT_INDEPENDENT_ITERATIONS
    for (std::int64_t i = 0; i < count; ++i) {
      y[i] = JumpRelu(LoadElement(source, i), jump);
    }
  }

  template <class Source, class T>
  ONNXFIT_OWN_FUNCTION static void OwnJumps(Source source, T* y, std::int64_t count, const T* jumps) {
    ONNXFIT_INDEPENDENT_ITERATIONS
    for (std::int64_t i = 0; i < count; ++i) {
      y[i] = JumpRelu(LoadElement(source, i), jumps[i]);
    }
  }

  template <class Source, class T>
  static void LaidOutJumps(Source source, T* y, std::int64_t count, const T* jumps, std::int64_t length,
                           std::int64_t phase) {
    for (std::int64_t done = 0; done < count; phase = 0) {
      const std::int64_t part = Min(count - done, length - phase);
      OwnJumps(source.From(done), y + done, part, jumps + phase);
      done += part;
    }
  }

  template <class Source, class T>
  static void ChannelJumps(Source source, T* y, std::int64_t count, const T* jumps, std::int64_t repeats,
                           std::int64_t left) {
    RunByRun<Loops>(source, y, count, jumps, repeats, left);
  }

  static void Leave() {}

  template <bool kPrepared, class T>
  static void Repeat(const T* jumps, std::int64_t count, std::int64_t repeats, T* out) {
    for (std::int64_t row = 0; row < count; ++row, out += repeats) {
      for (std::int64_t column = 0; column < repeats; ++column) {
        out[column] = jumps[row];
      }
    }
  }
};

}  // namespace

constexpr CpuPath kBaselinePath = PathOf<Loops>("baseline");

}  // namespace onnxfit
