// How a jump input J, broadcast to X's shape, is laid along X.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace onnxfit {

// The dimensions of a tensor, held by somebody else.
struct ShapeView {
  const std::int64_t* sizes;
  std::size_t rank;

  ShapeView(const std::int64_t* first, std::size_t count) : sizes(first), rank(count) {}
  ShapeView(const std::vector<std::int64_t>& shape) : sizes(shape.data()), rank(shape.size()) {}
};

// X as nested runs, the outermost first: along a run J either advances (its stride) or stays (stride 0).
// Neighbouring dimensions of the same kind are one run, so a scalar J has one run, and J [C,1,1] on X [N,C,H,W]
// has three: N (0), C (1), H*W (0). The innermost stride that is not 0 is 1.
struct Broadcast {
  static constexpr int kMaxRuns = 32;
  int runs;
  std::int64_t size[kMaxRuns];
  std::int64_t stride[kMaxRuns];
};

// The layout of J along X; throws std::invalid_argument when J does not broadcast to X's shape.
Broadcast MakeBroadcast(ShapeView x_shape, ShapeView j_shape);

// The layout of a J of one element along `count` elements.
inline Broadcast SameEverywhere(std::int64_t count) {
  Broadcast layout;
  layout.runs = 1;
  layout.size[0] = count;
  layout.stride[0] = 0;
  return layout;
}

// A shape in words: [2,3].
std::string ToString(ShapeView shape);

}  // namespace onnxfit
