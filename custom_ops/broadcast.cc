#include "broadcast.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace onnxfit {
namespace {

[[noreturn]] void Refuse(const char* reason, ShapeView x_shape, ShapeView j_shape) {
  throw std::invalid_argument(std::string(reason) + ": J " + ToString(j_shape) + " and X " + ToString(x_shape));
}

constexpr char kMustBroadcast[] = "J must broadcast to the shape of X";

}  // namespace

std::string ToString(ShapeView shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.rank; ++axis) {
    text += (axis ? "," : "") + std::to_string(shape.sizes[axis]);
  }
  return text + "]";
}

Broadcast MakeBroadcast(ShapeView x_shape, ShapeView j_shape) {
  if (j_shape.rank > x_shape.rank) {
    Refuse(kMustBroadcast, x_shape, j_shape);
  }

  // Built from the innermost run outwards, then reversed.
  Broadcast layout = SameEverywhere(1);
  std::int64_t j_stride = 1;
  for (std::size_t back = 1; back <= x_shape.rank; ++back) {
    const std::int64_t x_size = x_shape.sizes[x_shape.rank - back];
    const std::int64_t j_size = back <= j_shape.rank ? j_shape.sizes[j_shape.rank - back] : 1;
    if (j_size != x_size && j_size != 1) {
      Refuse(kMustBroadcast, x_shape, j_shape);
    }
    if (x_size == 1) {
      continue;
    }
    const bool advances = j_size != 1;
    const int last = layout.runs - 1;
    if (layout.size[last] == 1) {
      layout.size[last] = x_size;
      layout.stride[last] = advances ? j_stride : 0;
    } else if (advances == (layout.stride[last] != 0)) {
      layout.size[last] *= x_size;
    } else if (layout.runs == Broadcast::kMaxRuns) {
      Refuse("J alternates along too many dimensions of X", x_shape, j_shape);
    } else {
      layout.size[layout.runs] = x_size;
      layout.stride[layout.runs] = advances ? j_stride : 0;
      ++layout.runs;
    }
    j_stride *= j_size;
  }
  std::reverse(layout.size, layout.size + layout.runs);
  std::reverse(layout.stride, layout.stride + layout.runs);
  return layout;
}

}  // namespace onnxfit
