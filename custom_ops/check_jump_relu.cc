// Drives the library through a stand-in for ONNX Runtime and compares every bit with a reference of its own.
//
// Meant to be built with -fsanitize=address,undefined, together with library.cc, broadcast.cc and jump_relu_cpu.cc;
// with ONNXFIT_WITH_CUDA also with jump_relu.cu, as plain C++ on top of cuda_stand_in. Exits 1 at the first failure.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check_cases.h"
#include "export.h"
#include "ort_abi.h"

#if defined(ONNXFIT_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace onnxfit::ort {

// The stand-in's own versions of the types that are opaque to the library.
struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};
struct OrtTensorTypeAndShapeInfo {
  check::Shape shape;
  std::vector<const char*> names;
};
struct OrtValue {
  check::Shape shape;
  void* data;
};
struct OrtKernelInfo {
  const float* jump;
  bool integer;
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;
  OrtValue output;
  void* stream;
};
struct OrtShapeInferContext {
  OrtTensorTypeAndShapeInfo input;
  const OrtTensorTypeAndShapeInfo* output;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
};

}  // namespace onnxfit::ort

ONNXFIT_EXPORT onnxfit::ort::OrtStatus* ONNXFIT_ORT_CALL RegisterCustomOps(onnxfit::ort::OrtSessionOptions*,
                                                                           const onnxfit::ort::OrtApiBase*);

namespace onnxfit::check {
namespace {

using namespace ort;

void Require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::exit(1);
  }
}

void Require(bool holds, const std::string& what) { Require(holds, what.c_str()); }

// ---- the stand-in -------------------------------------------------------------------------------------------------

int calls_until_failure = -1;  // Negative: no call fails.

OrtStatus* MakeStatus(OrtErrorCode code, const char* message) { return new OrtStatus{code, message}; }

// What a fallible function of the stand-in does: fail when its turn has come, else `body`.
template <class Body>
OrtStatus* Fallible(Body body) {
  if (calls_until_failure-- == 0) {
    return MakeStatus(ORT_FAIL, "injected");
  }
  body();
  return nullptr;
}

template <class SlotType>
void Set(OrtApi& api, const SlotType&, typename SlotType::Function function) {
  api.slots[SlotType::kIndex] = reinterpret_cast<void (*)()>(function);
}

OrtApi MakeApi() {
  OrtApi api{};
  Set(api, CreateStatus, MakeStatus);
  Set(api, ReleaseStatus, [](OrtStatus* status) { delete status; });
  Set(api, CreateCustomOpDomain, [](const char* name, OrtCustomOpDomain** out) {
    Require(std::string(name) == "onnxfit", "the domain is onnxfit");
    return Fallible([&] { *out = new OrtCustomOpDomain; });
  });
  Set(api, ReleaseCustomOpDomain, [](OrtCustomOpDomain* domain) { delete domain; });
  Set(api, CustomOpDomain_Add, [](OrtCustomOpDomain* domain, const OrtCustomOp* op) {
    return Fallible([&] { domain->ops.push_back(op); });
  });
  Set(api, AddCustomOpDomain, [](OrtSessionOptions* options, OrtCustomOpDomain* domain) {
    return Fallible([&] { options->domains.push_back(domain); });
  });
  Set(api, KernelInfoGetAttribute_float, [](const OrtKernelInfo* info, const char*, float* out) {
    if (info->jump == nullptr) {
      return MakeStatus(ORT_FAIL, "no float attribute");
    }
    return Fallible([&] { *out = *info->jump; });
  });
  Set(api, KernelInfoGetAttribute_int64, [](const OrtKernelInfo* info, const char*, std::int64_t* out) {
    *out = 1;
    return info->integer ? nullptr : MakeStatus(ORT_FAIL, "no integer attribute");
  });
  Set(api, KernelInfoGetAttribute_string, [](const OrtKernelInfo*, const char*, char*, std::size_t*) {
    return MakeStatus(ORT_FAIL, "no string attribute");
  });
  Set(api, KernelInfoGetAttributeArray_float, [](const OrtKernelInfo*, const char*, float*, std::size_t*) {
    return MakeStatus(ORT_FAIL, "no list attribute");
  });
  Set(api, KernelContext_GetInputCount, [](const OrtKernelContext* context, std::size_t* out) {
    return Fallible([&] { *out = context->inputs.size(); });
  });
  Set(api, KernelContext_GetInput, [](const OrtKernelContext* context, std::size_t index, const OrtValue** out) {
    return Fallible([&] { *out = context->inputs.at(index); });
  });
  Set(api, KernelContext_GetOutput,
      [](OrtKernelContext* context, std::size_t, const std::int64_t* shape, std::size_t rank, OrtValue** out) {
        return Fallible([&] {
          context->output.shape.assign(shape, shape + rank);
          *out = &context->output;
        });
      });
  Set(api, GetTensorTypeAndShape, [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
    return Fallible([&] { *out = new OrtTensorTypeAndShapeInfo{value->shape, {}}; });
  });
  Set(api, ReleaseTensorTypeAndShapeInfo, [](OrtTensorTypeAndShapeInfo* info) { delete info; });
  Set(api, GetDimensionsCount, [](const OrtTensorTypeAndShapeInfo* info, std::size_t* out) {
    return Fallible([&] { *out = info->shape.size(); });
  });
  Set(api, GetDimensions, [](const OrtTensorTypeAndShapeInfo* info, std::int64_t* out, std::size_t rank) {
    return Fallible([&] { std::copy_n(info->shape.begin(), rank, out); });
  });
  Set(api, GetSymbolicDimensions, [](const OrtTensorTypeAndShapeInfo* info, const char** out, std::size_t rank) {
    return Fallible([&] { std::copy_n(info->names.begin(), rank, out); });
  });
  Set(api, GetTensorMutableData, [](OrtValue* value, void** out) { return Fallible([&] { *out = value->data; }); });
  Set(api, KernelContext_GetGPUComputeStream, [](const OrtKernelContext* context, void** out) {
    return Fallible([&] { *out = context->stream; });
  });
  Set(api, KernelContext_ParallelFor,
      [](const OrtKernelContext*, void (*body)(void*, std::size_t), std::size_t total, std::size_t, void* data) {
        return Fallible([&] {
          const auto every_second = [&](std::size_t first) {
            for (std::size_t i = first; i < total; i += 2) {
              body(data, i);
            }
          };
          std::thread other(every_second, 1);
          every_second(0);
          other.join();
        });
      });
  Set(api, ShapeInferContext_GetInputTypeShape,
      [](const OrtShapeInferContext* context, std::size_t, OrtTensorTypeAndShapeInfo** out) {
        return Fallible([&] { *out = const_cast<OrtTensorTypeAndShapeInfo*>(&context->input); });
      });
  Set(api, ShapeInferContext_SetOutputTypeShape,
      [](const OrtShapeInferContext* context, std::size_t, const OrtTensorTypeAndShapeInfo* info) {
        return Fallible([&] { const_cast<OrtShapeInferContext*>(context)->output = info; });
      });
  return api;
}

const OrtApi& Api() {
  static const OrtApi api = MakeApi();
  return api;
}

const OrtApi* GetApi(std::uint32_t version) { return version == kApiVersion ? &Api() : nullptr; }
const OrtApi* GetNoApi(std::uint32_t) { return nullptr; }
const char* GetVersionString() { return "stand-in"; }

// The message of a status that must be there, which this releases.
std::string TakeMessage(OrtStatus* status, OrtErrorCode code, const std::string& what) {
  Require(status != nullptr, what + " must fail");
  Require(status->code == code, what + " has another error code");
  const std::unique_ptr<OrtStatus> owner(status);
  return status->message;
}

// ---- the checks ---------------------------------------------------------------------------------------------------

// The value as a double, from the format's definition and not from the code under test.
template <class T>
double Decode(const T& value) {
  using F = Format<T>;
  const auto bits = ToBits(value);
  const std::uint64_t magnitude = bits & (~std::uint64_t{0} >> (64 - 8 * sizeof(T) + 1));
  const double sign = magnitude == bits ? 1 : -1;
  if (magnitude > F::kInfinity) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (magnitude == F::kInfinity) {
    return sign * std::numeric_limits<double>::infinity();
  }
  const std::uint64_t fraction = magnitude % F::kNormal;
  const int exponent = static_cast<int>(magnitude / F::kNormal);
  const int bias = static_cast<int>(F::kInfinity / F::kNormal) / 2;
  const double mantissa = static_cast<double>(exponent ? fraction + F::kNormal : fraction);
  const int scale = (exponent ? exponent : 1) - bias;
  return sign * std::ldexp(mantissa / static_cast<double>(F::kNormal), scale);
}

// A buffer that ends where its values end, optionally starting one element past a 16-byte boundary.
template <class T>
class Buffer {
 public:
  Buffer(const std::vector<T>& values, bool shifted)
      : raw_(std::malloc((values.size() + shifted) * sizeof(T))), data_(static_cast<T*>(raw_) + shifted) {
    if (!values.empty()) {
      std::memcpy(data_, values.data(), values.size() * sizeof(T));
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(raw_); }
  T* data() { return data_; }

 private:
  void* raw_;
  T* data_;
};

struct Kernel {
  const OrtCustomOp* op;
  void* node = nullptr;

  Kernel(const OrtCustomOp* custom_op, const OrtKernelInfo& info) : op(custom_op) {
    Require(op->CreateKernelV2(op, &Api(), &info, &node) == nullptr, "a kernel is created");
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() { op->KernelDestroy(node); }
};

template <class T>
void CheckCase(const OrtCustomOp* op, const Case& shapes, bool with_j, bool shifted, bool in_place) {
  const std::int64_t count = Count(shapes.x);
  const std::vector<T> x = EdgeValues<T>(count, 0);
  const std::vector<T> j = EdgeValues<T>(Count(shapes.j), 4);
  Buffer<T> x_buffer(x, shifted);
  Buffer<T> j_buffer(j, shifted);
  Buffer<T> y_buffer(x, shifted);
  OrtValue x_value{shapes.x, in_place ? y_buffer.data() : x_buffer.data()};
  OrtValue j_value{shapes.j, j_buffer.data()};
  OrtKernelContext context{{&x_value}, {{}, y_buffer.data()}, nullptr};
  if (with_j) {
    context.inputs.push_back(&j_value);
  }

  const Kernel kernel(op, {&kJump, false});
  Require(op->KernelComputeV2(kernel.node, &context) == nullptr, "compute succeeds");
  Require(context.output.shape == shapes.x, "Y has X's shape");

  T rounded_jump;
  std::memcpy(&rounded_jump, &Format<T>::kJump, sizeof(T));
  for (std::int64_t i = 0; i < count; ++i) {
    const T jump = with_j ? j[static_cast<std::size_t>(JumpIndex(shapes.x, shapes.j, i))] : rounded_jump;
    const T& value = x[static_cast<std::size_t>(i)];
    const auto expected = Decode(value) <= Decode(jump) ? typename Format<T>::Bits{0} : ToBits(value);
    if (expected != ToBits(y_buffer.data()[i])) {
      Require(false, std::string(Format<T>::kName) + ": element " + std::to_string(i) + " of " + std::to_string(count));
    }
  }
}

template <class T>
void CheckBadShapes(const OrtCustomOp* op) {
  const std::vector<Case> bad{{{2, 3}, {2}}, {{2, 3}, {1, 2, 3}}, {{3}, {1, 3}}, {{1}, {0}}, {{1, 3}, {2, 3}}};
  for (const Case& shapes : bad) {
    Buffer<T> x(EdgeValues<T>(Count(shapes.x), 0), false);
    Buffer<T> j(EdgeValues<T>(Count(shapes.j), 0), false);
    OrtValue x_value{shapes.x, x.data()};
    OrtValue j_value{shapes.j, j.data()};
    OrtKernelContext context{{&x_value, &j_value}, {{}, x.data()}, nullptr};
    const Kernel kernel(op, {&kJump, false});
    const std::string message =
        TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_INVALID_ARGUMENT, "a bad J shape");
    Require(message.find("J must broadcast to the shape of X: J [") == 0, "a clear message, got " + message);
  }
}

void CheckBadAttributes(const OrtCustomOp* op) {
  void* node = nullptr;
  for (const float jump : {-1.0f, -1e-30f, INFINITY, NAN}) {
    const OrtKernelInfo info{&jump, false};
    const std::string message =
        TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_INVALID_ARGUMENT, "a bad jump");
    Require(message.find("attribute 'jump' must be finite and at least 0, got") != std::string::npos, message);
  }
  const OrtKernelInfo info{nullptr, true};
  const std::string message =
      TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_INVALID_ARGUMENT, "an integer jump");
  Require(message.find("attribute 'jump' must be a float") != std::string::npos, message);
}

// Whichever call of ONNX Runtime fails, its status comes back and nothing leaks.
template <class T>
void CheckFailures(const OrtCustomOp* op) {
  Buffer<T> x(EdgeValues<T>(100000, 0), false);
  Buffer<T> j(EdgeValues<T>(1, 0), false);
  OrtValue x_value{{100000}, x.data()};
  OrtValue j_value{{}, j.data()};
  const Kernel kernel(op, {nullptr, false});
  for (int call = 0;; ++call) {
    OrtKernelContext context{{&x_value, &j_value}, {{}, x.data()}, nullptr};
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

void CheckShapeInference(const OrtCustomOp* op) {
  const auto inferred = [&](const Shape& shape, const std::vector<const char*>& names) {
    OrtShapeInferContext context{{shape, names}, nullptr};
    Require(op->InferOutputShapeFn(op, &context) == nullptr, "shape inference succeeds");
    return context.output == &context.input;
  };
  Require(inferred({2, 3}, {"", ""}), "a fixed shape is handed on");
  Require(inferred({-1, 3}, {"batch", ""}), "a named dimension is handed on");
  Require(!inferred({-1, 3}, {"", ""}), "an unnamed dimension leaves the shape open");
  Require(!inferred({}, {}), "rank 0, which may mean unknown, leaves the shape open");

  int* inputs = nullptr;
  int* outputs = nullptr;
  Require(op->GetMayInplace(&inputs, &outputs) == 1 && *inputs == 0 && *outputs == 0, "Y may replace X");
  op->ReleaseMayInplace(inputs, outputs);
}

#if defined(ONNXFIT_WITH_CUDA)
void CheckCudaError(const OrtCustomOp* op) {
  double x = 1;
  OrtValue x_value{{}, &x};
  OrtKernelContext context{{&x_value}, {{}, &x}, &failing_stream};
  const Kernel kernel(op, {nullptr, false});
  const std::string message = TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_FAIL, "a failing launch");
  Require(message == "onnxfit::JumpReLU on CUDA: unspecified launch failure", message);
}
#endif

template <class T>
void CheckOp(const OrtCustomOp* op, ONNXTensorElementDataType type) {
  Require(op->version == kApiVersion && op->GetName(op) == std::string("JumpReLU"), "the operator's name");
  Require(op->GetInputType(op, 0) == type && op->GetInputType(op, 1) == type && op->GetOutputType(op, 0) == type,
          "the operator's types");
  for (const Case& shapes : Cases()) {
    for (const bool shifted : {false, true}) {
      for (const bool in_place : {false, true}) {
        CheckCase<T>(op, shapes, false, shifted, in_place);
        CheckCase<T>(op, shapes, true, shifted, in_place);
      }
    }
  }
  CheckBadShapes<T>(op);
  CheckBadAttributes(op);
  CheckFailures<T>(op);
  CheckShapeInference(op);
}

// Every float >= 0 rounds to the nearest 16-bit value, to the even one of two that are equally near.
template <class T>
void CheckRounding() {
  using Bits = typename Format<T>::Bits;
  const auto value = [](Bits bits) {
    T result;
    std::memcpy(&result, &bits, sizeof bits);
    return result;
  };
  for (Bits bits = 0; bits + 1 < Format<T>::kInfinity; ++bits) {
    const auto low = static_cast<float>(Decode(value(bits)));
    const auto high = static_cast<float>(Decode(value(static_cast<Bits>(bits + 1))));
    const float middle = low + (high - low) / 2;
    Require(ToBits(RoundJump<T>(low)) == bits, "a representable jump stays as it is");
    Require(ToBits(RoundJump<T>(middle)) == bits + bits % 2, "halfway goes to even");
    Require(ToBits(RoundJump<T>(std::nextafterf(middle, 0))) == bits, "below halfway goes down");
    Require(ToBits(RoundJump<T>(std::nextafterf(middle, high))) == bits + 1, "above halfway goes up");
  }
  Require(ToBits(RoundJump<T>(std::numeric_limits<float>::max())) == Format<T>::kInfinity, "too large is infinite");
}

void Check() {
  OrtSessionOptions options;
  const OrtApiBase old{GetNoApi, GetVersionString};
  Require(RegisterCustomOps(&options, &old) == nullptr && options.domains.empty(),
          "a runtime too old for the library gets nothing registered, and no error");

#if defined(ONNXFIT_WITH_CUDA)
  const std::vector<std::string> providers{"CPUExecutionProvider", "CUDAExecutionProvider"};
#else
  const std::vector<std::string> providers{"CPUExecutionProvider"};
#endif
  const OrtApiBase base{GetApi, GetVersionString};
  const int calls_to_register = 2 + 4 * static_cast<int>(providers.size());
  for (int call = 0; call < calls_to_register; ++call) {
    calls_until_failure = call;
    Require(TakeMessage(RegisterCustomOps(&options, &base), ORT_FAIL, "a failing call") == "injected", "passed on");
  }
  Require(RegisterCustomOps(&options, &base) == nullptr && options.domains.size() == 1, "registration succeeds");
  Require(RegisterCustomOps(&options, &base) == nullptr && options.domains[0] == options.domains[1],
          "all sessions share one domain");

  const std::vector<const OrtCustomOp*>& ops = options.domains[0]->ops;
  Require(ops.size() == 4 * providers.size(), "one operator per element type and provider");
  for (std::size_t i = 0; i < ops.size(); ++i) {
    Require(ops[i]->GetExecutionProviderType(ops[i]) == providers[i / 4], "the operator's provider");
  }
#if defined(ONNXFIT_WITH_CUDA)
  CheckCudaError(ops[5]);
#endif
  for (std::size_t first = 0; first < ops.size(); first += 4) {
    CheckOp<float>(ops[first], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    CheckOp<double>(ops[first + 1], ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
    CheckOp<Float16>(ops[first + 2], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
    CheckOp<BFloat16>(ops[first + 3], ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
  }
  CheckRounding<Float16>();
  CheckRounding<BFloat16>();
}

}  // namespace
}  // namespace onnxfit::check

int main() {
  onnxfit::check::Check();
  std::puts("all checks passed");
}
