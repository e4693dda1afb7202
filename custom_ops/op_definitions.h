// What sets the three operators apart: names, operands, attributes, and how J lies along X.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "broadcast.h"
#include "jump_relu.h"
#include "op_attributes.h"
#include "op_values.h"
#include "ort_abi.h"

namespace onnxfit {

// What one node keeps between runs.
template <class T>
struct Node {
  const ort::OrtApi& api;
  T jump;              // Of every element, where there is no J.
  std::int64_t block;  // Of NchwcJumpReLU.
  std::unique_ptr<const Shape> jump_shape{};  // Of a J that stays the same, so that no run has to ask for it.
};

// J is optional and broadcasts to X.
template <class Definition>
struct BroadcastJump {
  static constexpr bool kJumpRequired = false;

  template <class T>
  static Node<T> Make(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
    return {api, RoundJump<T>(JumpAttribute(api, info, Definition::kName)), 1};
  }

  static Broadcast Layout(ShapeView x, ShapeView j, std::int64_t) { return MakeBroadcast(x, j); }
};

// Y = JumpReLU(X, J).
struct JumpReluDefinition : BroadcastJump<JumpReluDefinition> {
  static constexpr const char* kName = "JumpReLU";
  static constexpr int kOperands = 1;
};

// Y = JumpReLU(A + B, J), for A and B of one shape.
struct AddJumpReluDefinition : BroadcastJump<AddJumpReluDefinition> {
  static constexpr const char* kName = "AddJumpReLU";
  static constexpr int kOperands = 2;
};

// Y = JumpReLU(X, J) with J [C], and X declared as [N,C,H,W] but laid out as N × C/block × H × W × block.
struct NchwcJumpReluDefinition {
  static constexpr const char* kName = "NchwcJumpReLU";
  static constexpr int kOperands = 1;
  static constexpr bool kJumpRequired = true;

  template <class T>
  static Node<T> Make(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
    return {api, T{}, BlockAttribute(api, info, kName)};
  }

  static Broadcast Layout(ShapeView x, ShapeView j, std::int64_t block) {
    if (x.rank != 4 || j.rank != 1 || x.sizes[1] != j.sizes[0] || j.sizes[0] % block != 0) {
      throw std::invalid_argument("X must be [N,C,H,W] and J [C], with C a multiple of block " + std::to_string(block) +
                                  ": J " + ToString(j) + " and X " + ToString(x));
    }
    const std::int64_t x_memory[] = {x.sizes[0], x.sizes[1] / block, x.sizes[2] * x.sizes[3], block};
    const std::int64_t j_memory[] = {x.sizes[1] / block, 1, block};
    return MakeBroadcast({x_memory, 4}, {j_memory, 3});
  }
};

}  // namespace onnxfit
