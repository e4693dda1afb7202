// Checks the CUDA kernels bit for bit against the scalar definition, then times them beside a device copy.
//
// Needs no ONNX Runtime. Build and run:
//   nvcc -std=c++17 -O3 -arch=native -o bench_jump_relu bench_jump_relu.cu jump_relu.cu broadcast.cc
//   ./bench_jump_relu [--check] [--no-huge] [--json FILE]
// --check checks and times nothing; --no-huge leaves out the tensor of 2^32 elements, which takes 8.6 GB.
// Exit status: 0 done, 1 a bit differs, 2 usage, 3 CUDA cannot do it.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check_cuda.h"

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

void Launched(const char* error) {
  if (error != nullptr) {
    std::fprintf(stderr, "a kernel was not launched: %s\n", error);
    std::exit(3);
  }
}

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}

// ---- check --------------------------------------------------------------------------------------------------------

// Values on the device, `shift` elements behind a 16-byte boundary; ends where they end, so that compute-sanitizer sees
// an access beyond.
class DeviceMemory {
 public:
  template <class T>
  DeviceMemory(const std::vector<T>& values, int shift)
      : buffer_((values.size() + static_cast<std::size_t>(shift)) * sizeof(T)), data_(buffer_.as<T>() + shift) {
    CUDA_CHECK(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

  template <class T>
  static std::vector<T> Read(const T* from, std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    CUDA_CHECK(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  DeviceBuffer buffer_;
  void* data_;
};

// Both kernels can be captured into a CUDA graph; replayed, they read what lies in their inputs by then.
void CheckCapture() {
  const std::vector<float> x{1, -2, 0.25f, 0.5f, 3};
  const std::vector<float> expected{2, 0, 0, 1, 6};
  const DeviceMemory input(x, 0);
  const DeviceMemory once(std::vector<float>(x.size()), 0);
  const DeviceMemory twice(std::vector<float>(x.size()), 0);
  const auto count = static_cast<std::int64_t>(x.size());
  const Broadcast layout = MakeBroadcast(Shape{count}, Shape{});
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  Launched(JumpReluCuda<float>(input.data<float>(), once.data<float>(), count, nullptr, 0.4f, layout, stream));
  Launched(AddJumpReluCuda<float>(once.data<float>(), once.data<float>(), twice.data<float>(), count, nullptr, 0.4f,
                                  layout, stream));
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  CUDA_CHECK(cudaMemset(twice.data<float>(), 0xff, x.size() * sizeof(float)));
  CUDA_CHECK(cudaGraphLaunch(executable, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  if (DeviceMemory::Read<float>(twice.data<float>(), count) != expected) {
    Fail("a replayed CUDA graph computed something else");
  }
  CUDA_CHECK(cudaGraphExecDestroy(executable));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaStreamDestroy(stream));
}

// A tensor of more than 2^32 elements, looked at in a few places. False where the device is too small.
bool CheckHuge() {
  constexpr std::int64_t kChannels = 3;
  constexpr std::int64_t kRow = 1431655777;
  constexpr std::int64_t kCount = kChannels * kRow;  // 2^32 + 35
  constexpr std::int64_t kWindow = 4099;
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  const std::size_t bytes = kCount * sizeof(Float16);
  if (free_bytes < 2 * bytes) {
    return false;
  }
  const DeviceBuffer x(bytes);
  const DeviceMemory jumps(std::vector<Float16>{{0x3c3b}, {0x3c3c}, {0x3c3d}}, 0);
  CUDA_CHECK(cudaMemset(x.as<void>(), 0x3c, bytes));
  Launched(JumpReluCuda<Float16>(x.as<Float16>(), x.as<Float16>(), kCount, jumps.data<Float16>(), {},
                                 MakeBroadcast(Shape{kChannels, kRow}, Shape{kChannels, 1}), nullptr));
  const std::int64_t middle = std::int64_t{1} << 31;
  for (const std::int64_t begin : {std::int64_t{0}, kRow - 7, middle - 7, 2 * kRow - 7, kCount - kWindow}) {
    const std::vector<Float16> y = DeviceMemory::Read<Float16>(x.as<Float16>() + begin, kWindow);
    for (std::int64_t i = 0; i < kWindow; ++i) {
      if (y[static_cast<std::size_t>(i)].bits != (begin + i < kRow ? 0x3c3c : 0)) {
        Fail("element " + std::to_string(begin + i) + " of a huge tensor");
      }
    }
  }
  return true;
}

// ---- benchmark ----------------------------------------------------------------------------------------------------

constexpr int kRounds = 31;

struct Timing {
  std::string dtype;
  std::string op;
  std::string jump;
  std::size_t tensor_bytes;
  std::size_t moved_bytes;
  double kernel_ms;
  double copy_ms;
  // The copy's time over the kernel's: quartiles of the rounds.
  double ratio[3];
};

// The element at a fraction of the sorted values.
double Quantile(std::vector<double> values, double fraction) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1) + 0.5)];
}

// Times single calls, each after the L2 cache was overwritten.
class Clock {
 public:
  Clock() : flush_bytes_(2 * L2Bytes()), flush_(flush_bytes_) {
    CUDA_CHECK(cudaEventCreate(&start_));
    CUDA_CHECK(cudaEventCreate(&stop_));
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  ~Clock() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }

  template <class Call>
  double Ms(const Call& call) const {
    float ms = 0;
    CUDA_CHECK(cudaMemsetAsync(flush_.as<void>(), 0, flush_bytes_));
    CUDA_CHECK(cudaEventRecord(start_));
    call();
    CUDA_CHECK(cudaEventRecord(stop_));
    CUDA_CHECK(cudaEventSynchronize(stop_));
    CUDA_CHECK(cudaEventElapsedTime(&ms, start_, stop_));
    return ms;
  }

 private:
  static std::size_t L2Bytes() {
    int bytes = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, 0));
    return static_cast<std::size_t>(bytes);
  }

  std::size_t flush_bytes_;
  DeviceBuffer flush_;
  cudaEvent_t start_;
  cudaEvent_t stop_;
};

// Kernel and copy in turns. `scale` is what the kernel moves over what the copy moves.
template <class Kernel, class Copy>
void Race(const Clock& clock, const Kernel& kernel, const Copy& copy, double scale, Timing& timing) {
  std::vector<double> kernel_ms;
  std::vector<double> copy_ms;
  std::vector<double> ratios;
  clock.Ms(kernel);
  clock.Ms(copy);
  for (int round = 0; round < kRounds; ++round) {
    if (round % 2 == 0) {
      kernel_ms.push_back(clock.Ms(kernel));
    }
    copy_ms.push_back(scale * clock.Ms(copy));
    if (round % 2 == 1) {
      kernel_ms.push_back(clock.Ms(kernel));
    }
    ratios.push_back(copy_ms.back() / kernel_ms.back());
  }
  timing.kernel_ms = Quantile(kernel_ms, 0.5);
  timing.copy_ms = Quantile(copy_ms, 0.5);
  for (int quartile = 0; quartile < 3; ++quartile) {
    timing.ratio[quartile] = Quantile(ratios, 0.25 * (quartile + 1));
  }
}

struct Form {
  std::string jump;
  Case shapes;
  bool in_place;
};

// As many whole images as fit into a tensor of `count` elements.
std::vector<Form> Forms(std::int64_t count, std::int64_t channels) {
  return {
      {"attribute", {{count}, {}}, false},
      {"attribute, in place", {{count}, {}}, true},
      {"[64,1,1] on 16x16", {{count / (channels * 256), channels, 16, 16}, {channels, 1, 1}}, false},
      {"[64,1,1] on 7x7", {{count / (channels * 49), channels, 7, 7}, {channels, 1, 1}}, false},
      {"[64] on the last axis", {{count / channels, channels}, {channels}}, false},
  };
}

template <class T>
void BenchType(const Clock& clock, std::vector<Timing>& timings) {
  constexpr std::int64_t kChannels = 64;
  const DeviceBuffer jumps(kChannels * sizeof(T));
  CUDA_CHECK(cudaMemset(jumps.as<T>(), 0, kChannels * sizeof(T)));
  for (std::size_t bytes = std::size_t{1} << 20; bytes <= std::size_t{1} << 30; bytes *= 4) {
    const DeviceBuffer a(bytes + bytes / 2);
    const DeviceBuffer b(bytes);
    const DeviceBuffer y(bytes + bytes / 2);
    CUDA_CHECK(cudaMemset(a.as<void>(), 0x3f, bytes + bytes / 2));
    CUDA_CHECK(cudaMemset(b.as<void>(), 0x3f, bytes));
    const auto count = static_cast<std::int64_t>(bytes / sizeof(T));
    for (const bool adds : {false, true}) {
      for (const Form& form : Forms(count, kChannels)) {
        const Broadcast layout = MakeBroadcast(form.shapes.x, form.shapes.j);
        const T* const jump = form.shapes.j.empty() ? nullptr : jumps.as<T>();
        const std::int64_t used = Count(form.shapes.x);
        T* const result = form.in_place ? a.as<T>() : y.as<T>();
        const T* const x = a.as<T>();
        const auto kernel = [&] {
          Launched(adds ? AddJumpReluCuda<T>(x, b.as<T>(), result, used, jump, RoundedJump<T>(), layout, nullptr)
                        : JumpReluCuda<T>(x, result, used, jump, RoundedJump<T>(), layout, nullptr));
        };
        const std::size_t copied = adds ? bytes + bytes / 2 : bytes;
        const auto copy = [&] {
          CUDA_CHECK(cudaMemcpyAsync(y.as<void>(), a.as<void>(), copied, cudaMemcpyDeviceToDevice));
        };
        const std::size_t tensor_bytes = static_cast<std::size_t>(used) * sizeof(T);
        Timing timing{Format<T>::kName, adds ? "AddJumpReLU" : "JumpReLU", form.jump, tensor_bytes,
                      (adds ? 3 : 2) * tensor_bytes, 0, 0, {}};
        Race(clock, kernel, copy, static_cast<double>(used) / static_cast<double>(count), timing);
        timings.push_back(timing);
      }
    }
  }
}

double Gbps(const Timing& timing, double ms) { return static_cast<double>(timing.moved_bytes) / ms / 1e6; }

void Print(const std::vector<Timing>& timings) {
  std::printf("%-9s %-12s %-22s %8s %9s %9s   %s\n", "dtype", "operator", "jump", "MiB", "GB/s", "copy GB/s",
              "ratio (quartiles)");
  for (const Timing& timing : timings) {
    std::printf("%-9s %-12s %-22s %8.1f %9.1f %9.1f   %.3f (%.3f to %.3f)\n", timing.dtype.c_str(), timing.op.c_str(),
                timing.jump.c_str(), static_cast<double>(timing.tensor_bytes) / (1 << 20),
                Gbps(timing, timing.kernel_ms), Gbps(timing, timing.copy_ms), timing.ratio[1], timing.ratio[0],
                timing.ratio[2]);
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
      << ",\n  \"l2_bytes\": " << device.l2CacheSize << ",\n  \"rounds\": " << kRounds << ",\n  \"timings\": [";
  const char* separator = "\n";
  for (const Timing& timing : timings) {
    out << separator << "    {\"dtype\": \"" << timing.dtype << "\", \"operator\": \"" << timing.op
        << "\", \"jump\": \"" << timing.jump << "\", \"tensor_bytes\": " << timing.tensor_bytes
        << ", \"moved_bytes\": " << timing.moved_bytes << ", \"median_ms\": " << timing.kernel_ms
        << ", \"gb_per_s\": " << Gbps(timing, timing.kernel_ms)
        << ", \"copy_gb_per_s\": " << Gbps(timing, timing.copy_ms) << ", \"ratio\": " << timing.ratio[1]
        << ", \"ratio_quartiles\": [" << timing.ratio[0] << ", " << timing.ratio[2] << "]}";
    separator = ",\n";
  }
  out << "\n  ]\n}\n";
  return static_cast<bool>(out.flush());
}

int Main(const std::vector<std::string>& arguments) {
  bool check_only = false;
  bool try_huge = true;
  std::string json;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--check") {
      check_only = true;
    } else if (arguments[i] == "--no-huge") {
      try_huge = false;
    } else if (arguments[i] == "--json" && i + 1 < arguments.size()) {
      json = arguments[++i];
    } else {
      std::fprintf(stderr, "usage: bench_jump_relu [--check] [--no-huge] [--json FILE]\n");
      return 2;
    }
  }

  CUDA_CHECK(cudaFree(nullptr));
  if (const std::optional<std::string> fault = FirstFaultOfAll<DeviceMemory>()) {
    Fail(*fault);
  }
  CheckCapture();
  const bool huge = try_huge && CheckHuge();
  std::printf("check: every bit as the definition has it, %s, and in a CUDA graph\n",
              huge ? "beyond 2^32 elements" : "up to 2^18 elements");
  if (check_only) {
    return 0;
  }

  const Clock clock;
  std::vector<Timing> timings;
  BenchType<float>(clock, timings);
  BenchType<double>(clock, timings);
  BenchType<Float16>(clock, timings);
  BenchType<BFloat16>(clock, timings);
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
