// Just enough of CUDA's runtime to compile jump_relu.cu as plain C++ and run its threads one after the other.
//
// The check driver is built with it where there is no GPU: the kernel's arithmetic, under the sanitizers.
#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __grid_constant__

struct dim3 {
  unsigned x;
  dim3(unsigned size = 1) : x(size) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline thread_local dim3 blockIdx;
inline thread_local dim3 threadIdx;

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };

inline const char* cudaGetErrorString(cudaError_t) { return "unspecified launch failure"; }

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

// The check driver asks for a failure by giving this stream.
inline char failing_stream;

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->stream == &failing_stream) {
    return cudaErrorLaunchFailure;
  }
  for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < config->blockDim.x; ++threadIdx.x) {
      kernel(arguments...);
    }
  }
  return cudaSuccess;
}
