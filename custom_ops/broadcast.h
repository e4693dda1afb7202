// How a jump input J, broadcast to X's shape, is laid along X.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxfit {

// X as nested runs, the outermost first: along a run J either advances (its stride) or stays (stride 0).
// Neighbouring dimensions of the same kind are one run, so a scalar J has one run, and J [C,1,1] on X [N,C,H,W]
// has three: N (0), C (1), H*W (0). The innermost stride is 0 or 1.
struct Broadcast {
  static constexpr int kMaxRuns = 32;
  int runs;
  std::int64_t size[kMaxRuns];
  std::int64_t stride[kMaxRuns];
};

// The layout of J along X; throws std::invalid_argument when J does not broadcast to X's shape.
Broadcast MakeBroadcast(const std::vector<std::int64_t>& x_shape, const std::vector<std::int64_t>& j_shape);

}  // namespace onnxfit
