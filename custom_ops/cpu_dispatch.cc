// Chooses the CPU kernels for the processor at hand.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cpu_path.h"
#include "kernels.h"

#if ONNXFIT_X86_PATHS && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif ONNXFIT_X86_PATHS
#include <cpuid.h>
#endif

namespace onnxfit {
namespace {

#if ONNXFIT_X86_PATHS
// What a leaf of the instruction cpuid says, as eax, ebx, ecx and edx.
struct CpuId {
  std::uint32_t registers[4];

  explicit CpuId(std::uint32_t leaf) {
#if defined(_MSC_VER)
    __cpuidex(reinterpret_cast<int*>(registers), static_cast<int>(leaf), 0);
#else
    __cpuid_count(leaf, 0, registers[0], registers[1], registers[2], registers[3]);
#endif
  }
};

// Which parts of the registers the operating system keeps for each thread.
std::uint64_t KeptState() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
#endif
}

// Whether registers as in `state`, features in ecx of leaf 1 and in ebx of leaf 7 are all there.
bool Has(std::uint64_t state, std::uint32_t in_leaf_1, std::uint32_t in_leaf_7) {
  constexpr std::uint32_t kXgetbv = 1u << 27;
  if (CpuId(0).registers[0] < 7) {
    return false;
  }
  const std::uint32_t leaf_1 = CpuId(1).registers[2];
  const std::uint32_t leaf_7 = CpuId(7).registers[1];
  return (leaf_1 & kXgetbv) != 0 && (KeptState() & state) == state && (leaf_1 & in_leaf_1) == in_leaf_1 &&
         (leaf_7 & in_leaf_7) == in_leaf_7;
}

// The upper halves of 16 registers; F16C; AVX2.
bool HasAvx2() { return Has(0x06, 1u << 29, 1u << 5); }

// Also masks and all of 32 registers; AVX-512 F and BW.
bool HasAvx512() { return Has(0xe6, 0, 1u << 16 | 1u << 30); }

// Whether a path is at most as wide as the one named. No name allows all, and an unknown one the baseline alone: a limit
// that is misspelt must not be lifted.
bool IsAllowed(const char* path, const char* name) {
  const auto width = [](const char* text) {
    return std::strcmp(text, "avx512") == 0 ? 2 : std::strcmp(text, "avx2") == 0 ? 1 : 0;
  };
  return name == nullptr || *name == '\0' || width(path) <= width(name);
}
#endif

// The widest path that this processor can and the name allows.
const CpuPath* Widest([[maybe_unused]] const char* name) {
#if ONNXFIT_X86_PATHS
  if (IsAllowed(kAvx512Path.name, name) && HasAvx512()) {
    return &kAvx512Path;
  }
  if (IsAllowed(kAvx2Path.name, name) && HasAvx2()) {
    return &kAvx2Path;
  }
#endif
  return &kBaselinePath;
}

std::atomic<const CpuPath*>& InUse() {
  static std::atomic<const CpuPath*> path{Widest(std::getenv("ONNXFIT_CPU_PATH"))};
  return path;
}

template <class T>
const CpuKernels<T>& Kernels() {
  return *InUse().load(std::memory_order_relaxed);
}

}  // namespace

bool UseCpuPath(const char* name) {
  const CpuPath* const path = Widest(name);
  InUse() = path;
  return std::strcmp(path->name, name) == 0;
}

const char* CpuPathInUse() { return InUse().load()->name; }

template <class T>
void JumpReluCpu(const T* x, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                 const Broadcast& layout) noexcept {
  Kernels<T>().jump_relu(x, y, begin, end, jump, layout);
}

template <class T>
void AddJumpReluCpu(const T* a, const T* b, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                    const Broadcast& layout) noexcept {
  Kernels<T>().add_jump_relu(a, b, y, begin, end, jump, layout);
}

#define ONNXFIT_CPU_KERNELS(T)                                                                                      \
  template void JumpReluCpu(const T*, T*, std::int64_t, std::int64_t, const T*, const Broadcast&) noexcept;         \
  template void AddJumpReluCpu(const T*, const T*, T*, std::int64_t, std::int64_t, const T*, const Broadcast&) noexcept;
ONNXFIT_CPU_KERNELS(float)
ONNXFIT_CPU_KERNELS(double)
ONNXFIT_CPU_KERNELS(Float16)
ONNXFIT_CPU_KERNELS(BFloat16)

}  // namespace onnxfit
