// Just enough of CUDA's runtime to compile jump_relu.cu as plain C++ and run its threads one after the other.
//
// The check drivers are built with it where there is no GPU: the kernel's arithmetic, under the sanitizers.
#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x;
  dim3(unsigned size = 1) : x(size) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline thread_local dim3 blockIdx;
inline thread_local dim3 threadIdx;
inline thread_local dim3 gridDim;

inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(a) * b >> 32);
}

inline std::uint64_t __umul64hi(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "unspecified launch failure";
}

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

// The check drivers ask for a failure by giving this stream.
inline char failing_stream;

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->gridDim.x == 0 || config->gridDim.x > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  if (config->stream == &failing_stream) {
    return cudaErrorLaunchFailure;
  }
  gridDim = config->gridDim;
  for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < config->blockDim.x; ++threadIdx.x) {
      kernel(arguments...);
    }
  }
  return cudaSuccess;
}
