// Checks of shape inference, which all operators share, and of NchwcJumpReLU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check_cases.h"
#include "check_runtime.h"
#include "ort_abi.h"

namespace onnxfit::check {

inline void CheckShapeInference(const OrtCustomOp* op, std::size_t operands) {
  using Info = OrtTensorTypeAndShapeInfo;
  // The number of the operand whose shape was handed on, or -1.
  const auto inferred = [&](const std::vector<Info>& inputs) {
    OrtShapeInferContext context{inputs, nullptr};
    Require(op->InferOutputShapeFn(op, &context) == nullptr, "shape inference succeeds");
    return context.output == nullptr ? -1 : static_cast<int>(context.output - context.inputs.data());
  };
  const Info fixed{{2, 3}, {"", ""}}, named{{-1, 3}, {"batch", ""}}, unnamed{{-1, 3}, {"", ""}}, scalar{{}, {}};
  for (const Info& known : {fixed, named}) {
    Require(inferred({known, unnamed}) == 0, "a fixed shape and a named dimension are handed on");
    Require(inferred({unnamed, known}) == (operands == 2 ? 1 : -1), "the shape of any operand will do");
  }
  Require(inferred({unnamed, unnamed}) == -1, "an unnamed dimension leaves the shape open");
  Require(inferred({scalar, scalar}) == -1, "rank 0, which may mean unknown, leaves the shape open");

  int* inputs = nullptr;
  int* outputs = nullptr;
  Require(op->GetMayInplace(&inputs, &outputs) == operands, "Y may replace each operand");
  for (std::size_t i = 0; i < operands; ++i) {
    Require(inputs[i] == static_cast<int>(i) && outputs[i] == 0, "Y may replace this operand");
  }
  op->ReleaseMayInplace(inputs, outputs);
}

// X is [N,C,H,W] in blocks of channels; element i of its memory reads this jump.
inline std::int64_t BlockedChannel(const Shape& shape, std::int64_t block, std::int64_t i) {
  const std::int64_t plane = shape[2] * shape[3] * block;
  return i / plane % (shape[1] / block) * block + i % block;
}

inline void CheckNchwc(const OrtCustomOp* op) {
  Require(op->GetName(op) == std::string("NchwcJumpReLU") && op->GetInputTypeCount(op) == 2 &&
              op->GetInputCharacteristic(op, 1) == INPUT_OUTPUT_REQUIRED,
          "the blocked operator");
  for (const Shape& shape : std::vector<Shape>{
           {1, 16, 1, 1}, {2, 48, 3, 5}, {3, 64, 7, 7}, {1, 8, 2, 3}, {0, 16, 4, 4}, {2, 144, 28, 29}}) {
    for (const std::int64_t block : {1, 4, 8, 16}) {
      if (shape[1] % block != 0) {
        continue;
      }
      for (const bool shifted : {false, true}) {
        const std::vector<float> x = EdgeValues<float>(Count(shape), 0);
        const std::vector<float> j = EdgeValues<float>(shape[1], 4);
        Buffer<float> buffer(x, shifted);
        Buffer<float> j_buffer(j, shifted);
        OrtValue x_value{shape, buffer.data()};
        OrtValue j_value{{shape[1]}, j_buffer.data()};
        OrtKernelContext context{{&x_value, &j_value}, {{}, buffer.data()}, nullptr};
        const Kernel kernel(op, {nullptr, false, block});
        Require(op->KernelComputeV2(kernel.node, &context) == nullptr, "compute succeeds");
        for (std::int64_t i = 0; i < Count(shape); ++i) {
          const float value = x[static_cast<std::size_t>(i)];
          const float jump = j[static_cast<std::size_t>(BlockedChannel(shape, block, i))];
          Require(ToBits(buffer.data()[i]) == (value <= jump ? 0 : ToBits(value)), "blocks: every element");
        }
      }
    }
  }
  CheckShapeInference(op, 1);
}

inline void CheckBadNchwc(const OrtCustomOp* op) {
  void* node = nullptr;
  for (const std::int64_t block : {-1, 0}) {
    const OrtKernelInfo info{nullptr, false, block};
    const std::string message =
        TakeMessage(op->CreateKernelV2(op, &Api(), &info, &node), ORT_INVALID_ARGUMENT, "a bad block");
    Require(message == "onnxfit::NchwcJumpReLU: attribute 'block' must be an integer of at least 1", message);
  }
  const std::vector<Case> bad{
      {{1, 12, 1, 1}, {12}}, {{1, 16, 1, 1}, {8}}, {{1, 16, 1, 1}, {}}, {{1, 16, 1, 1}, {16, 1, 1}}, {{16, 1}, {16}}};
  for (const Case& shapes : bad) {
    Buffer<float> x(EdgeValues<float>(Count(shapes.x), 0), false);
    Buffer<float> j(EdgeValues<float>(Count(shapes.j), 0), false);
    OrtValue x_value{shapes.x, x.data()};
    OrtValue j_value{shapes.j, j.data()};
    OrtKernelContext context{{&x_value, &j_value}, {{}, x.data()}, nullptr};
    const Kernel kernel(op, {nullptr, false, 8});
    const std::string message =
        TakeMessage(op->KernelComputeV2(kernel.node, &context), ORT_INVALID_ARGUMENT, "a bad shape");
    Require(message.find("X must be [N,C,H,W] and J [C], with C a multiple of block 8: J [") == 0, message);
  }
}

}  // namespace onnxfit::check
