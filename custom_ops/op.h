// An operator of this library as ONNX Runtime sees it: one OrtCustomOp per definition, element type and provider.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "broadcast.h"
#include "op_definitions.h"
#include "op_providers.h"
#include "op_values.h"
#include "ort_abi.h"
#include "ort_status.h"

namespace onnxfit {

template <class Definition, class T, class Provider>
void Compute(const Node<T>& node, ort::OrtKernelContext* context) {
  constexpr int kOperands = Definition::kOperands;
  const ort::OrtApi& api = node.api;
  const ort::OrtValue* const x = Input(api, context, 0);
  const ort::OrtValue* const j = InputCount(api, context) > kOperands ? Input(api, context, kOperands) : nullptr;
  const Shape shape(api, x);
  const std::int64_t count = shape.count();

  Run<T, kOperands> run;
  run.operands[0] = Data<const T>(api, x);
  if constexpr (kOperands == 2) {
    const ort::OrtValue* const b = Input(api, context, 1);
    const Shape other(api, b);
    if (!(other == shape)) {
      throw std::invalid_argument(std::string("onnxfit::") + Definition::kName + ": A and B must have one shape: A " +
                                  ToString(shape.view()) + " and B " + ToString(other.view()));
    }
    run.operands[1] = Data<const T>(api, b);
  }
  run.count = count;
  run.fallback = node.jump;
  run.jump = j != nullptr ? Data<const T>(api, j) : nullptr;
  if (j == nullptr) {
    run.layout = SameEverywhere(count);
  } else if (node.jump_shape != nullptr) {
    run.layout = Definition::Layout(shape.view(), node.jump_shape->view(), node.block);
  } else {
    run.layout = Definition::Layout(shape.view(), Shape(api, j).view(), node.block);
  }

  ort::OrtValue* y = nullptr;
  Check(ort::KernelContext_GetOutput(api, context, 0, shape.view().sizes, shape.rank(), &y));
  if (count == 0) {
    return;
  }
  run.y = Data<T>(api, y);
  Provider::Compute(api, context, Definition::kName, run);
}

// Whether a shape can be handed on. It cannot where ONNX Runtime's answer is ambiguous: it says rank 0 for a scalar and
// for an unknown rank alike, and an unnamed dynamic dimension cannot be handed back.
inline bool IsKnown(const ort::OrtApi& api, const ort::OrtTensorTypeAndShapeInfo* info) {
  const Shape shape(api, info);
  std::vector<const char*> names(shape.rank());
  Check(ort::GetSymbolicDimensions(api, info, names.data(), names.size()));
  bool known = shape.rank() > 0;
  for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
    known = known && (shape[axis] >= 0 || *names[axis] != '\0');
  }
  return known;
}

// Y has the shape of each operand: that of the first one which is known, else it is left open.
inline void InferShape(const ort::OrtApi& api, ort::OrtShapeInferContext* context, int operands) {
  for (int operand = 0; operand < operands; ++operand) {
    ort::OrtTensorTypeAndShapeInfo* info = nullptr;
    Check(ort::ShapeInferContext_GetInputTypeShape(api, context, static_cast<std::size_t>(operand), &info));
    if (IsKnown(api, info)) {
      Check(ort::ShapeInferContext_SetOutputTypeShape(api, context, 0, info));
      return;
    }
  }
}

template <class Definition, class T, class Provider>
struct Op : ort::OrtCustomOp {
  static constexpr std::size_t kOperands = Definition::kOperands;
  const ort::OrtApi& api;

  explicit Op(const ort::OrtApi& runtime) : ort::OrtCustomOp{}, api(runtime) {
    version = ort::kApiVersion;
    GetName = [](const OrtCustomOp*) noexcept { return Definition::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) noexcept { return Provider::kProvider; };
    GetInputTypeCount = [](const OrtCustomOp*) noexcept { return kOperands + 1; };
    GetInputType = [](const OrtCustomOp*, std::size_t) noexcept { return kElementType<T>; };
    GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) noexcept {
      return index < kOperands || Definition::kJumpRequired ? ort::INPUT_OUTPUT_REQUIRED : ort::INPUT_OUTPUT_OPTIONAL;
    };
    GetInputMemoryType = [](const OrtCustomOp*, std::size_t) noexcept { return ort::OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) noexcept -> std::size_t { return 1; };
    GetOutputType = [](const OrtCustomOp*, std::size_t) noexcept { return kElementType<T>; };
    GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) noexcept { return ort::INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) noexcept { return 1; };
    GetEndVersion = [](const OrtCustomOp*) noexcept { return INT_MAX; };

    // ONNX Runtime reuses a buffer only where it knows that Y has the same shape, so these two go together.
    InferOutputShapeFn = [](const OrtCustomOp* op, ort::OrtShapeInferContext* context) noexcept {
      const ort::OrtApi& ort_api = static_cast<const Op*>(op)->api;
      return Guard(ort_api, [&] { InferShape(ort_api, context, Definition::kOperands); });
    };
    // Y may take the place of any operand.
    GetMayInplace = [](int** inputs, int** outputs) noexcept {
      static int operands[] = {0, 1};
      static int first[] = {0, 0};
      *inputs = operands;
      *outputs = first;
      return kOperands;
    };
    ReleaseMayInplace = [](int*, int*) noexcept {};

    CreateKernelV2 = [](const OrtCustomOp*, const ort::OrtApi* ort_api, const ort::OrtKernelInfo* info,
                        void** node) noexcept {
      return Guard(*ort_api, [&] {
        auto made = std::make_unique<Node<T>>(Definition::template Make<T>(*ort_api, info));
        made->jump_shape = ConstantShape(*ort_api, info, kOperands);
        *node = made.release();
      });
    };
    KernelComputeV2 = [](void* node, ort::OrtKernelContext* context) noexcept {
      const auto& self = *static_cast<const Node<T>*>(node);
      return Guard(self.api, [&] { Compute<Definition, T, Provider>(self, context); });
    };
    KernelDestroy = [](void* node) noexcept { delete static_cast<Node<T>*>(node); };
  }
};

}  // namespace onnxfit
