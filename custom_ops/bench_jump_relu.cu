// Checks the CUDA kernel bit for bit against the scalar definition, then times it beside a device copy.
//
// Needs no ONNX Runtime. Build and run:
//   nvcc -std=c++17 -O3 -arch=native -o bench_jump_relu bench_jump_relu.cu jump_relu.cu broadcast.cc
//   ./bench_jump_relu [--check] [--json FILE]
// Exit status: 0 done, 1 a bit differs, 2 usage, 3 CUDA cannot do it.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check_cases.h"
#include "kernels.h"

namespace onnxfit::check {
namespace {

void CudaCheck(cudaError_t error, const char* call, int line) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "line %d: %s: %s\n", line, call, cudaGetErrorString(error));
    std::exit(3);
  }
}
#define CUDA_CHECK(call) CudaCheck(call, #call, __LINE__)

// Device memory, freed at the end of its scope.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) { CUDA_CHECK(cudaMalloc(&data_, std::max<std::size_t>(bytes, 1))); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

template <class T>
T RoundedJump() {
  T jump;
  std::memcpy(&jump, &Format<T>::kJump, sizeof(T));
  return jump;
}

void Launched(const char* error) {
  if (error != nullptr) {
    std::fprintf(stderr, "JumpReluCuda: %s\n", error);
    std::exit(3);
  }
}

// ---- check --------------------------------------------------------------------------------------------------------

template <class T>
void CheckCase(const Case& shapes, bool with_j, bool shifted, bool in_place) {
  const std::int64_t count = Count(shapes.x);
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  const std::vector<T> x = EdgeValues<T>(count, 0);
  const std::vector<T> j = EdgeValues<T>(Count(shapes.j), 4);
  // Exactly as large as needed, so that compute-sanitizer sees an access beyond the end.
  const DeviceBuffer x_buffer(bytes + shifted * sizeof(T));
  const DeviceBuffer y_buffer(bytes + shifted * sizeof(T));
  const DeviceBuffer j_buffer(j.size() * sizeof(T));
  T* const y_device = y_buffer.as<T>() + shifted;
  T* const x_device = in_place ? y_device : x_buffer.as<T>() + shifted;
  T* const j_device = with_j ? j_buffer.as<T>() : nullptr;
  CUDA_CHECK(cudaMemcpy(x_device, x.data(), bytes, cudaMemcpyHostToDevice));
  CUDA_CHECK(cudaMemcpy(j_buffer.as<T>(), j.data(), j.size() * sizeof(T), cudaMemcpyHostToDevice));

  const Broadcast layout = MakeBroadcast(shapes.x, with_j ? shapes.j : Shape{});
  Launched(JumpReluCuda<T>(x_device, y_device, count, j_device, RoundedJump<T>(), layout, nullptr));
  std::vector<T> y(x.size());
  CUDA_CHECK(cudaMemcpy(y.data(), y_device, bytes, cudaMemcpyDeviceToHost));

  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t at = static_cast<std::size_t>(i);
    const T jump = with_j ? j[static_cast<std::size_t>(JumpIndex(shapes.x, shapes.j, i))] : RoundedJump<T>();
    const T expected = JumpRelu(x[at], jump);
    if (std::memcmp(&expected, &y[at], sizeof(T)) != 0) {
      std::fprintf(stderr, "%s: element %lld of %lld differs (J %d, shifted %d, in place %d)\n", Format<T>::kName,
                   static_cast<long long>(i), static_cast<long long>(count), with_j, shifted, in_place);
      std::exit(1);
    }
  }
}

template <class T>
void CheckType() {
  for (const Case& shapes : Cases()) {
    for (const bool with_j : {false, true}) {
      for (const bool shifted : {false, true}) {
        for (const bool in_place : {false, true}) {
          CheckCase<T>(shapes, with_j, shifted, in_place);
        }
      }
    }
  }
}

// ---- benchmark ----------------------------------------------------------------------------------------------------

struct Timing {
  std::string dtype;
  std::string jump;
  std::size_t bytes;
  double kernel_ms;
  double copy_ms;
};

// The median time of one call, each after the L2 cache was overwritten.
template <class Call>
double MedianMs(const Call& call) {
  constexpr int kRuns = 21;
  int l2_bytes = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, 0));
  const std::size_t flush_bytes = 2 * static_cast<std::size_t>(l2_bytes);
  const DeviceBuffer flush(flush_bytes);
  cudaEvent_t start;
  cudaEvent_t stop;
  CUDA_CHECK(cudaEventCreate(&start));
  CUDA_CHECK(cudaEventCreate(&stop));
  std::vector<float> times(kRuns);
  call();
  for (float& ms : times) {
    CUDA_CHECK(cudaMemsetAsync(flush.as<void>(), 0, flush_bytes));
    CUDA_CHECK(cudaEventRecord(start));
    call();
    CUDA_CHECK(cudaEventRecord(stop));
    CUDA_CHECK(cudaEventSynchronize(stop));
    CUDA_CHECK(cudaEventElapsedTime(&ms, start, stop));
  }
  CUDA_CHECK(cudaEventDestroy(start));
  CUDA_CHECK(cudaEventDestroy(stop));
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

template <class T>
void BenchType(std::vector<Timing>& timings) {
  constexpr std::int64_t kChannels = 64;
  const DeviceBuffer jumps(kChannels * sizeof(T));
  CUDA_CHECK(cudaMemset(jumps.as<T>(), 0, kChannels * sizeof(T)));
  for (std::size_t bytes = std::size_t{1} << 20; bytes <= std::size_t{1} << 30; bytes *= 4) {
    const DeviceBuffer x(bytes);
    const DeviceBuffer y(bytes);
    CUDA_CHECK(cudaMemset(x.as<T>(), 0x3f, bytes));
    const double copy_ms = MedianMs([&] {
      CUDA_CHECK(cudaMemcpyAsync(y.as<T>(), x.as<T>(), bytes, cudaMemcpyDeviceToDevice));
    });
    const std::int64_t count = static_cast<std::int64_t>(bytes / sizeof(T));
    // As many whole images as fit into the buffer.
    const std::vector<std::pair<std::string, Case>> forms{
        {"attribute", {{count}, {}}},
        {"[64,1,1] on 16x16", {{count / (kChannels * 256), kChannels, 16, 16}, {kChannels, 1, 1}}},
        {"[64,1,1] on 7x7", {{count / (kChannels * 49), kChannels, 7, 7}, {kChannels, 1, 1}}},
        {"[64] on the last axis", {{count / kChannels, kChannels}, {kChannels}}},
    };
    for (const auto& [name, shapes] : forms) {
      const Broadcast layout = MakeBroadcast(shapes.x, shapes.j);
      const T* const jump = shapes.j.empty() ? nullptr : jumps.as<T>();
      const std::int64_t used = Count(shapes.x);
      const double ms = MedianMs([&] {
        Launched(JumpReluCuda<T>(x.as<T>(), y.as<T>(), used, jump, RoundedJump<T>(), layout, nullptr));
      });
      timings.push_back({Format<T>::kName, name, static_cast<std::size_t>(used) * sizeof(T), ms,
                         copy_ms * static_cast<double>(used) / static_cast<double>(count)});
    }
  }
}

// Bytes read and written per second.
double Gbps(const Timing& timing, double ms) { return 2 * static_cast<double>(timing.bytes) / ms / 1e6; }

void Print(const std::vector<Timing>& timings) {
  std::printf("%-9s %-22s %9s %9s %9s %7s\n", "dtype", "jump", "MiB", "GB/s", "copy GB/s", "ratio");
  for (const Timing& timing : timings) {
    std::printf("%-9s %-22s %9.1f %9.1f %9.1f %7.2f\n", timing.dtype.c_str(), timing.jump.c_str(),
                static_cast<double>(timing.bytes) / (1 << 20), Gbps(timing, timing.kernel_ms),
                Gbps(timing, timing.copy_ms), timing.copy_ms / timing.kernel_ms);
  }
}

bool WriteJson(const std::vector<Timing>& timings, const std::string& path) {
  cudaDeviceProp device;
  int driver = 0;
  int runtime = 0;
  CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  CUDA_CHECK(cudaDriverGetVersion(&driver));
  CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  std::ofstream out(path);
  out << "{\n  \"device\": \"" << device.name << "\",\n  \"compute_capability\": \"" << device.major << '.'
      << device.minor << "\",\n  \"cuda_driver\": " << driver << ",\n  \"cuda_runtime\": " << runtime
      << ",\n  \"l2_bytes\": " << device.l2CacheSize << ",\n  \"timings\": [";
  const char* separator = "\n";
  for (const Timing& timing : timings) {
    out << separator << "    {\"dtype\": \"" << timing.dtype << "\", \"jump\": \"" << timing.jump
        << "\", \"bytes\": " << timing.bytes << ", \"median_ms\": " << timing.kernel_ms
        << ", \"gb_per_s\": " << Gbps(timing, timing.kernel_ms)
        << ", \"copy_gb_per_s\": " << Gbps(timing, timing.copy_ms) << "}";
    separator = ",\n";
  }
  out << "\n  ]\n}\n";
  return static_cast<bool>(out.flush());
}

int Main(const std::vector<std::string>& arguments) {
  bool check_only = false;
  std::string json;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--check") {
      check_only = true;
    } else if (arguments[i] == "--json" && i + 1 < arguments.size()) {
      json = arguments[++i];
    } else {
      std::fprintf(stderr, "usage: bench_jump_relu [--check] [--json FILE]\n");
      return 2;
    }
  }

  CheckType<float>();
  CheckType<double>();
  CheckType<Float16>();
  CheckType<BFloat16>();
  std::puts("check: every bit as the definition has it");
  if (check_only) {
    return 0;
  }

  std::vector<Timing> timings;
  BenchType<float>(timings);
  BenchType<double>(timings);
  BenchType<Float16>(timings);
  BenchType<BFloat16>(timings);
  Print(timings);
  if (!json.empty() && !WriteJson(timings, json)) {
    std::fprintf(stderr, "cannot write %s\n", json.c_str());
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace onnxfit::check

int main(int argc, char** argv) { return onnxfit::check::Main({argv + 1, argv + argc}); }
