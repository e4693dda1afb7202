// Runs the CUDA kernels without a GPU, as C++ on top of cuda_stand_in, and compares every bit with the definition.
//
// Meant to be built with -fsanitize=address,undefined:
//   g++ -std=c++17 -fsanitize=address,undefined -Icuda_stand_in check_cuda.cc broadcast.cc -xc++ jump_relu.cu
// Exits 1 at the first difference.
#include <cuda_runtime_api.h>

#include <cstdlib>

#include "check_cuda.h"

namespace onnxfit::check {
namespace {

// Starts on a 16-byte boundary, or `shift` elements behind one, and ends where its values end.
class HostMemory {
 public:
  template <class T>
  HostMemory(const std::vector<T>& values, int shift)
      : raw_(std::malloc((values.size() + static_cast<std::size_t>(shift)) * sizeof(T))),
        data_(static_cast<T*>(raw_) + shift) {
    if (!values.empty()) {
      std::memcpy(data_, values.data(), values.size() * sizeof(T));
    }
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory() { std::free(raw_); }

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

  template <class T>
  static std::vector<T> Read(const T* from, std::int64_t count) {
    return std::vector<T>(from, from + count);
  }

 private:
  void* raw_;
  void* data_;
};

bool IsText(const char* actual, const char* expected) {
  return actual != nullptr && std::string(actual) == expected;
}

std::optional<std::string> LaunchFault() {
  float x = 1;
  const char* error =
      AddJumpReluCuda<float>(&x, &x, &x, 1, nullptr, 0, MakeBroadcast(Shape{}, Shape{}), &failing_stream);
  if (!IsText(error, "unspecified launch failure")) {
    return "a failing launch must be reported in CUDA's words";
  }
  error = JumpReluCuda<float>(&x, &x, INT64_MAX, nullptr, 0, MakeBroadcast(Shape{INT64_MAX}, Shape{}), nullptr);
  if (!IsText(error, "invalid configuration argument")) {
    return "more elements than a grid has threads must be refused before any is touched";
  }
  return std::nullopt;
}

int Main() {
  std::optional<std::string> fault = LaunchFault();
  if (!fault) {
    fault = FirstFaultOfAll<HostMemory>();
  }
  if (fault) {
    std::fprintf(stderr, "FAILED: %s\n", fault->c_str());
    return 1;
  }
  std::puts("all checks passed");
  return 0;
}

}  // namespace
}  // namespace onnxfit::check

int main() { return onnxfit::check::Main(); }
