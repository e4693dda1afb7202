// onnxfit::JumpReLU as an ONNX Runtime custom operator: one OrtCustomOp per element type and provider.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "broadcast.h"
#include "jump_relu.h"
#include "kernels.h"
#include "ort_abi.h"
#include "ort_status.h"

namespace onnxfit {

template <class T>
inline constexpr ort::ONNXTensorElementDataType kElementType{};
template <>
inline constexpr ort::ONNXTensorElementDataType kElementType<float> = ort::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
template <>
inline constexpr ort::ONNXTensorElementDataType kElementType<double> = ort::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
template <>
inline constexpr ort::ONNXTensorElementDataType kElementType<Float16> = ort::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
template <>
inline constexpr ort::ONNXTensorElementDataType kElementType<BFloat16> = ort::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

// What one node keeps between runs.
template <class T>
struct Node {
  const ort::OrtApi& api;
  T jump;
};

// One run of a node, as its provider gets it. Where `jump` is null, `fallback` is every element's jump.
template <class T>
struct Run {
  const T* x;
  T* y;
  std::int64_t count;
  const T* jump;
  T fallback;
  Broadcast layout;
};

struct Cpu {
  static constexpr const char* kProvider = "CPUExecutionProvider";

  template <class T>
  static void Compute(const ort::OrtApi& api, ort::OrtKernelContext* context, Run<T>& run) {
    // Below two chunks the hand-off to another thread would take longer than the work.
    constexpr std::int64_t kChunk = (64 << 10) / sizeof(T);
    if (run.jump == nullptr) {
      run.jump = &run.fallback;
    }
    if (run.count < 2 * kChunk) {
      JumpReluCpu(run.x, run.y, 0, run.count, run.jump, run.layout);
      return;
    }
    const auto compute_chunk = [](void* data, std::size_t chunk) {
      const auto& all = *static_cast<const Run<T>*>(data);
      const std::int64_t begin = static_cast<std::int64_t>(chunk) * kChunk;
      JumpReluCpu(all.x, all.y, begin, std::min(begin + kChunk, all.count), all.jump, all.layout);
    };
    const auto chunks = static_cast<std::size_t>((run.count + kChunk - 1) / kChunk);
    Check(ort::KernelContext_ParallelFor(api, context, compute_chunk, chunks, 0, &run));
  }
};

struct Cuda {
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  template <class T>
  static void Compute(const ort::OrtApi& api, ort::OrtKernelContext* context, Run<T>& run) {
    void* stream = nullptr;
    Check(ort::KernelContext_GetGPUComputeStream(api, context, &stream));
    if (const char* error = JumpReluCuda(run.x, run.y, run.count, run.jump, run.fallback, run.layout, stream)) {
      throw std::runtime_error(std::string("onnxfit::JumpReLU on CUDA: ") + error);
    }
  }
};

// Whether a call succeeded; its status is released.
inline bool Succeeded(const ort::OrtApi& api, ort::OrtStatus* status) {
  if (status != nullptr) {
    ort::ReleaseStatus(api, status);
  }
  return status == nullptr;
}

// True when the node has the attribute with one of the types people give it by mistake.
inline bool HasAttributeOfOtherType(const ort::OrtApi& api, const ort::OrtKernelInfo* info, const char* name) {
  std::int64_t integer;
  std::size_t size = 0;
  return Succeeded(api, ort::KernelInfoGetAttribute_int64(api, info, name, &integer)) ||
         Succeeded(api, ort::KernelInfoGetAttribute_string(api, info, name, nullptr, &size)) ||
         Succeeded(api, ort::KernelInfoGetAttributeArray_float(api, info, name, nullptr, &size));
}

inline float JumpAttribute(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
  float jump = 0;
  if (!Succeeded(api, ort::KernelInfoGetAttribute_float(api, info, "jump", &jump))) {
    if (HasAttributeOfOtherType(api, info, "jump")) {
      throw std::invalid_argument("onnxfit::JumpReLU: attribute 'jump' must be a float");
    }
    return 0;
  }
  if (!std::isfinite(jump) || jump < 0) {
    char message[96];
    std::snprintf(message, sizeof message,
                  "onnxfit::JumpReLU: attribute 'jump' must be finite and at least 0, got %g", jump);
    throw std::invalid_argument(message);
  }
  return jump;
}

inline std::vector<std::int64_t> Shape(const ort::OrtApi& api, const ort::OrtTensorTypeAndShapeInfo* info) {
  std::size_t rank = 0;
  Check(ort::GetDimensionsCount(api, info, &rank));
  std::vector<std::int64_t> shape(rank);
  Check(ort::GetDimensions(api, info, shape.data(), rank));
  return shape;
}

inline std::vector<std::int64_t> Shape(const ort::OrtApi& api, const ort::OrtValue* value) {
  ort::OrtTensorTypeAndShapeInfo* info = nullptr;
  Check(ort::GetTensorTypeAndShape(api, value, &info));
  const auto release = [&api](ort::OrtTensorTypeAndShapeInfo* held) { ort::ReleaseTensorTypeAndShapeInfo(api, held); };
  const std::unique_ptr<ort::OrtTensorTypeAndShapeInfo, decltype(release)> owner(info, release);
  return Shape(api, info);
}

template <class T>
T* Data(const ort::OrtApi& api, const ort::OrtValue* value) {
  void* data = nullptr;
  // Only the C API's one accessor for reading and writing makes this cast necessary.
  Check(ort::GetTensorMutableData(api, const_cast<ort::OrtValue*>(value), &data));
  return static_cast<T*>(data);
}

template <class T, class Provider>
void Compute(const Node<T>& node, ort::OrtKernelContext* context) {
  const ort::OrtApi& api = node.api;
  std::size_t inputs = 0;
  Check(ort::KernelContext_GetInputCount(api, context, &inputs));
  const ort::OrtValue* x = nullptr;
  const ort::OrtValue* j = nullptr;
  Check(ort::KernelContext_GetInput(api, context, 0, &x));
  if (inputs > 1) {
    Check(ort::KernelContext_GetInput(api, context, 1, &j));
  }

  const std::vector<std::int64_t> shape = Shape(api, x);
  const Broadcast layout = MakeBroadcast(shape, j ? Shape(api, j) : std::vector<std::int64_t>{});
  ort::OrtValue* y = nullptr;
  Check(ort::KernelContext_GetOutput(api, context, 0, shape.data(), shape.size(), &y));
  const std::int64_t count =
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<std::int64_t>());
  if (count == 0) {
    return;
  }
  Run<T> run{Data<const T>(api, x), Data<T>(api, y), count, j ? Data<const T>(api, j) : nullptr, node.jump, layout};
  Provider::Compute(api, context, run);
}

// Y has X's shape. Left open where ONNX Runtime's answer is ambiguous: it says rank 0 for a scalar and for an unknown
// rank alike, and an unnamed dynamic dimension cannot be handed back.
inline void InferShape(const ort::OrtApi& api, ort::OrtShapeInferContext* context) {
  ort::OrtTensorTypeAndShapeInfo* x = nullptr;
  Check(ort::ShapeInferContext_GetInputTypeShape(api, context, 0, &x));
  const std::vector<std::int64_t> shape = Shape(api, x);
  std::vector<const char*> names(shape.size());
  Check(ort::GetSymbolicDimensions(api, x, names.data(), names.size()));
  bool known = !shape.empty();
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    known = known && (shape[axis] >= 0 || *names[axis] != '\0');
  }
  if (known) {
    Check(ort::ShapeInferContext_SetOutputTypeShape(api, context, 0, x));
  }
}

// The callbacks through which ONNX Runtime sees JumpReLU for elements of type T on one provider.
template <class T, class Provider>
struct Op : ort::OrtCustomOp {
  const ort::OrtApi& api;

  explicit Op(const ort::OrtApi& runtime) : ort::OrtCustomOp{}, api(runtime) {
    version = ort::kApiVersion;
    GetName = [](const OrtCustomOp*) noexcept { return "JumpReLU"; };
    GetExecutionProviderType = [](const OrtCustomOp*) noexcept { return Provider::kProvider; };
    GetInputTypeCount = [](const OrtCustomOp*) noexcept -> std::size_t { return 2; };
    GetInputType = [](const OrtCustomOp*, std::size_t) noexcept { return kElementType<T>; };
    GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) noexcept {
      return index == 0 ? ort::INPUT_OUTPUT_REQUIRED : ort::INPUT_OUTPUT_OPTIONAL;
    };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) noexcept { return ort::OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) noexcept -> std::size_t { return 1; };
    GetOutputType = [](const OrtCustomOp*, std::size_t) noexcept { return kElementType<T>; };
    GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return ort::INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) noexcept { return 1; };
    GetEndVersion = [](const OrtCustomOp*) noexcept { return INT_MAX; };

    // ONNX Runtime reuses X's buffer only where it knows that Y has the same shape, so these two go together.
    InferOutputShapeFn = [](const OrtCustomOp* op, ort::OrtShapeInferContext* context) noexcept {
      const ort::OrtApi& ort_api = static_cast<const Op*>(op)->api;
      return Guard(ort_api, [&] { InferShape(ort_api, context); });
    };
    GetMayInplace = [](int** inputs, int** outputs) noexcept -> std::size_t {
      static int first = 0;
      *inputs = *outputs = &first;
      return 1;
    };
    ReleaseMayInplace = [](int*, int*) noexcept {};

    CreateKernelV2 = [](const OrtCustomOp*, const ort::OrtApi* ort_api, const ort::OrtKernelInfo* info,
                        void** node) noexcept {
      return Guard(*ort_api, [&] { *node = new Node<T>{*ort_api, RoundJump<T>(JumpAttribute(*ort_api, info))}; });
    };
    KernelComputeV2 = [](void* node, ort::OrtKernelContext* context) noexcept {
      const auto& self = *static_cast<const Node<T>*>(node);
      return Guard(self.api, [&] { Compute<T, Provider>(self, context); });
    };
    KernelDestroy = [](void* node) noexcept { delete static_cast<Node<T>*>(node); };
  }
};

}  // namespace onnxfit
