// Drives the library through a stand-in for ONNX Runtime and compares every bit with a reference of its own.
//
// Meant to be built with -fsanitize=address,undefined, together with library.cc, broadcast.cc and the cpu_*.cc; with
// ONNXFIT_WITH_CUDA also with jump_relu.cu, as plain C++ on top of cuda_stand_in. Exits 1 at the first failure.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "add.h"
#include "check_cases.h"
#include "check_nchwc.h"
#include "check_runtime.h"
#include "export.h"
#include "ort_abi.h"

#if defined(ONNXFIT_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

ONNXFIT_EXPORT onnxfit::ort::OrtStatus* ONNXFIT_ORT_CALL RegisterCustomOps(onnxfit::ort::OrtSessionOptions*,
                                                                           const onnxfit::ort::OrtApiBase*);

namespace onnxfit::check {
namespace {

// The operands of a case, J, and Y, which takes the place of operand number `in_place` if that is not negative.
struct Call {
  bool adds;
  bool with_j;
  bool shifted;
  int in_place;
};

template <class T>
void CheckCase(const OrtCustomOp* op, const Case& shapes, const Call& call) {
  const std::int64_t count = Count(shapes.x);
  const std::vector<T> a = EdgeValues<T>(count, 0);
  const std::vector<T> b = SecondValues<T>(count);
  const std::vector<T> j = EdgeValues<T>(Count(shapes.j), 4);
  Buffer<T> a_buffer(a, call.shifted);
  Buffer<T> b_buffer(b, call.shifted);
  Buffer<T> j_buffer(j, call.shifted);
  Buffer<T> y_buffer(a, call.shifted);
  T* const y = call.in_place == 0 ? a_buffer.data() : call.in_place == 1 ? b_buffer.data() : y_buffer.data();
  OrtValue a_value{shapes.x, a_buffer.data()};
  OrtValue b_value{shapes.x, b_buffer.data()};
  OrtValue j_value{shapes.j, j_buffer.data()};
  OrtKernelContext context{{&a_value}, {{}, y}, nullptr};
  if (call.adds) {
    context.inputs.push_back(&b_value);
  }
  if (call.with_j) {
    context.inputs.push_back(&j_value);
  }

  const Kernel kernel(op, {&kJump});
  Require(op->KernelComputeV2(kernel.node, &context) == nullptr, "compute succeeds");
  Require(context.output.shape == shapes.x, "Y has X's shape");

  T rounded_jump;
  std::memcpy(&rounded_jump, &Format<T>::kJump, sizeof(T));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const T jump = call.with_j ? j[static_cast<std::size_t>(JumpIndex(shapes.x, shapes.j, i))] : rounded_jump;
    const T value = call.adds ? Add(a[at], b[at]) : a[at];
    const auto expected = Decode(value) <= Decode(jump) ? typename Format<T>::Bits{0} : ToBits(value);
    // The bits of a NaN that a sum makes depend on the hardware.
    const bool right = call.adds && std::isnan(Decode(value)) ? std::isnan(Decode(y[i])) : expected == ToBits(y[i]);
    if (!right) {
      Require(false, std::string(op->GetName(op)) + ", " + Format<T>::kName + ": element " + std::to_string(i) +
                         " of " + std::to_string(count));
    }
  }
}

template <class T>
void CheckBadShapes(const OrtCustomOp* op, bool adds) {
  const std::vector<Case> bad{{{2, 3}, {2}}, {{2, 3}, {1, 2, 3}}, {{3}, {1, 3}}, {{1}, {0}}, {{1, 3}, {2, 3}}};
  for (const Case& shapes : bad) {
    Buffer<T> x(EdgeValues<T>(Count(shapes.x), 0), false);
    Buffer<T> j(EdgeValues<T>(Count(shapes.j), 0), false);
    OrtValue x_value{shapes.x, x.data()};
    OrtValue j_value{shapes.j, j.data()};
    OrtKernelContext context{{&x_value}, {{}, x.data()}, nullptr};
    if (adds) {
      context.inputs.push_back(&x_value);
    }
    context.inputs.push_back(&j_value);
    const Kernel kernel(op, {&kJump});
    const std::string message =
        TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_INVALID_ARGUMENT, "a bad J shape");
    Require(message.find("J must broadcast to the shape of X: J [") == 0, "a clear message, got " + message);
  }
}

// A and B of other shapes are refused, even where one would broadcast to the other.
template <class T>
void CheckUnequalShapes(const OrtCustomOp* op) {
  for (const Shape& other : std::vector<Shape>{{3}, {1, 3}, {2, 3, 1}, {3, 2}, {}}) {
    Buffer<T> a(EdgeValues<T>(6, 0), false);
    Buffer<T> b(EdgeValues<T>(Count(other), 0), false);
    OrtValue a_value{{2, 3}, a.data()};
    OrtValue b_value{other, b.data()};
    OrtKernelContext context{{&a_value, &b_value}, {{}, a.data()}, nullptr};
    const Kernel kernel(op, {});
    const std::string message =
        TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_INVALID_ARGUMENT, "operands of two shapes");
    Require(message.find("onnxfit::AddJumpReLU: A and B must have one shape: A [2,3] and B [") == 0, message);
  }
}

// The shape of a J that is an initializer is asked for once, when the kernel is made: runs do not look at it.
template <class T>
void CheckConstant(const OrtCustomOp* op, bool adds) {
  const std::vector<T> x = EdgeValues<T>(48, 0);
  const std::vector<T> j = EdgeValues<T>(2, 4);
  Buffer<T> x_buffer(x, false), y_buffer(x, false), zeros(std::vector<T>(48), false), j_buffer(j, false);
  OrtValue x_value{{2, 24}, x_buffer.data()};
  OrtValue zeros_value{{2, 24}, zeros.data()};
  const OrtValue constant{{2, 1}, j_buffer.data()};
  OrtValue other_shape{{7, 7}, j_buffer.data()};
  OrtKernelContext context{{&x_value}, {{}, y_buffer.data()}, nullptr};
  if (adds) {
    context.inputs.push_back(&zeros_value);
  }
  const OrtKernelInfo info{nullptr, false, 0, &constant, context.inputs.size()};
  context.inputs.push_back(&other_shape);
  const Kernel kernel(op, info);
  Require(op->KernelComputeV2(kernel.node, &context) == nullptr, "compute with a constant J succeeds");
  for (std::size_t i = 0; i < x.size(); ++i) {
    const T value = adds ? Add(x[i], T{}) : x[i];
    const T expected = JumpRelu(value, j[i / 24]);
    const bool is_nan = std::isnan(Decode(expected)) && std::isnan(Decode(y_buffer.data()[i]));
    Require(is_nan || ToBits(expected) == ToBits(y_buffer.data()[i]), "a constant J is laid out by its own shape");
  }

  for (const int call : {0, 1, 2, 3}) {
    void* node = nullptr;
    calls_until_failure = call;
    const std::string message = TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_FAIL, "a failing call");
    calls_until_failure = -1;
    Require(message == "injected" && node == nullptr, "no kernel is made");
  }
}

void CheckBadAttributes(const OrtCustomOp* op) {
  void* node = nullptr;
  for (const float jump : {-1.0f, -1e-30f, INFINITY, NAN}) {
    const OrtKernelInfo info{&jump};
    const std::string message =
        TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_INVALID_ARGUMENT, "a bad jump");
    Require(message.find("attribute 'jump' must be finite and at least 0, got") != std::string::npos, message);
  }
  const OrtKernelInfo info{nullptr, true};
  const std::string message =
      TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_INVALID_ARGUMENT, "an integer jump");
  Require(message == std::string("onnxfit::") + op->GetName(op) + ": attribute 'jump' must be a float", message);
}

// Whichever call of ONNX Runtime fails, its status comes back and nothing leaks.
template <class T>
void CheckFailures(const OrtCustomOp* op, bool adds) {
  constexpr std::int64_t kEnoughForThreads = 300000;
  Buffer<T> x(EdgeValues<T>(kEnoughForThreads, 0), false);
  Buffer<T> j(EdgeValues<T>(1, 0), false);
  OrtValue x_value{{kEnoughForThreads}, x.data()};
  OrtValue j_value{{}, j.data()};
  const Kernel kernel(op, {});
  for (int call = 0;; ++call) {
    OrtKernelContext context{{&x_value}, {{}, x.data()}, nullptr};
    if (adds) {
      context.inputs.push_back(&x_value);
    }
    context.inputs.push_back(&j_value);
    calls_until_failure = call;
    OrtStatus* status = op->KernelComputeV2(kernel.node, &context);
    const bool reached = calls_until_failure < 0;
    calls_until_failure = -1;
    if (!reached) {
      Require(status == nullptr && call > 8, "every call of a run had its turn");
      break;
    }
    Require(TakeMessage(status, ORT_FAIL, "a failing call") == "injected", "the status is passed on");
  }
}

#if defined(ONNXFIT_WITH_CUDA)
void CheckCudaError(const OrtCustomOp* op) {
  double x = 1;
  OrtValue x_value{{}, &x};
  OrtKernelContext context{{&x_value, &x_value}, {{}, &x}, &failing_stream};
  if (op->GetInputTypeCount(op) == 2) {
    context.inputs.pop_back();
  }
  const Kernel kernel(op, {});
  const std::string message = TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_FAIL, "a failing launch");
  Require(message == std::string("onnxfit::") + op->GetName(op) + " on CUDA: unspecified launch failure", message);
}
#endif

template <class T>
void CheckOp(const OrtCustomOp* op, ONNXTensorElementDataType type) {
  const bool adds = op->GetName(op) == std::string("AddJumpReLU");
  const std::size_t operands = adds ? 2 : 1;
  Require(op->version == kApiVersion && (adds || op->GetName(op) == std::string("JumpReLU")), "the operator's name");
  Require(op->GetInputTypeCount(op) == operands + 1 && op->GetOutputTypeCount(op) == 1, "the operator's arity");
  Require(op->GetInputCharacteristic(op, operands - 1) == INPUT_OUTPUT_REQUIRED &&
              op->GetInputCharacteristic(op, operands) == INPUT_OUTPUT_OPTIONAL,
          "J is optional");
  Require(op->GetInputType(op, 0) == type && op->GetInputType(op, operands) == type && op->GetOutputType(op, 0) == type,
          "the operator's types");
  for (const Case& shapes : Cases()) {
    for (const bool shifted : {false, true}) {
      for (int in_place = -1; in_place < static_cast<int>(operands); ++in_place) {
        CheckCase<T>(op, shapes, {adds, false, shifted, in_place});
        CheckCase<T>(op, shapes, {adds, true, shifted, in_place});
      }
    }
  }
  CheckBadShapes<T>(op, adds);
  CheckConstant<T>(op, adds);
  CheckBadAttributes(op);
  CheckFailures<T>(op, adds);
  CheckShapeInference(op, operands);
  if (adds) {
    CheckUnequalShapes<T>(op);
  }
}

std::vector<const OrtCustomOp*> Register(std::size_t count) {
  OrtSessionOptions options;
  const OrtApiBase old{GetNoApi, GetVersionString};
  Require(RegisterCustomOps(&options, &old) == nullptr && options.domains.empty(),
          "a runtime too old for the library gets nothing registered, and no error");
  const OrtApiBase base{GetApi, GetVersionString};
  for (int call = 0; call < 2 + static_cast<int>(count); ++call) {
    calls_until_failure = call;
    Require(TakeMessage(RegisterCustomOps(&options, &base), ORT_FAIL, "a failing call") == "injected", "passed on");
  }
  Require(RegisterCustomOps(&options, &base) == nullptr && options.domains.size() == 1, "registration succeeds");
  Require(RegisterCustomOps(&options, &base) == nullptr && options.domains[0] == options.domains[1],
          "all sessions share one domain");
  Require(options.domains[0]->ops.size() == count, "each operator once per element type and provider");
  return options.domains[0]->ops;
}

void Check() {
#if defined(ONNXFIT_WITH_CUDA)
  const std::vector<std::string> providers{"CPUExecutionProvider", "CUDAExecutionProvider"};
#else
  const std::vector<std::string> providers{"CPUExecutionProvider"};
#endif
  const std::vector<const OrtCustomOp*> ops = Register(8 * providers.size() + 1);
  CheckNchwc(ops[8]);
  CheckBadNchwc(ops[8]);
  for (std::size_t provider = 0; provider < providers.size(); ++provider) {
    for (std::size_t i = 0; i < 8; i += 4) {
      const OrtCustomOp* const* const four = &ops[provider * 9 + i];
      for (std::size_t k = 0; k < 4; ++k) {
        Require(four[k]->GetExecutionProviderType(four[k]) == providers[provider], "the operator's provider");
      }
#if defined(ONNXFIT_WITH_CUDA)
      if (provider == 1) {
        CheckCudaError(four[1]);
      }
#endif
      CheckOp<float>(four[0], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
      CheckOp<double>(four[1], ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
      CheckOp<Float16>(four[2], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
      CheckOp<BFloat16>(four[3], ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
    }
  }
}

}  // namespace
}  // namespace onnxfit::check

int main() {
  onnxfit::check::Check();
  std::puts("all checks passed");
}
