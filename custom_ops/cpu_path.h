// The CPU kernels of one instruction set, each compiled in a file of its own.
#pragma once

#include <cstdint>

#include "broadcast.h"
#include "jump_relu.h"

// Where the files for AVX2 and AVX-512 have content: their intrinsics need no compiler flags there.
#if !defined(ONNXFIT_X86_PATHS)
#if (defined(__x86_64__) && defined(__GNUC__)) || (defined(_M_X64) && !defined(_M_ARM64EC))
#define ONNXFIT_X86_PATHS 1
#else
#define ONNXFIT_X86_PATHS 0
#endif
#endif

namespace onnxfit {

template <class T>
struct CpuKernels {
  void (*jump_relu)(const T* x, T* y, std::int64_t begin, std::int64_t end, const T* jump, const Broadcast& layout);
  void (*add_jump_relu)(const T* a, const T* b, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                        const Broadcast& layout);
};

struct CpuPath : CpuKernels<float>, CpuKernels<double>, CpuKernels<Float16>, CpuKernels<BFloat16> {
  const char* name;
};

extern const CpuPath kBaselinePath;
#if ONNXFIT_X86_PATHS
extern const CpuPath kAvx2Path;
extern const CpuPath kAvx512Path;
#endif

// Use the path of this name from now on, if this processor can: "baseline", "avx2" or "avx512". For the checks, while
// no kernel runs. Returns whether it could.
bool UseCpuPath(const char* name);

// The name of the path in use: at first the widest that this processor can, and no wider than the environment
// variable ONNXFIT_CPU_PATH says, of which an unknown value means "baseline".
const char* CpuPathInUse();

}  // namespace onnxfit
