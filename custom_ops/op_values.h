// The tensors of a run, and their shapes without a visit to the heap where the rank is usual.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "broadcast.h"
#include "jump_relu.h"
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

// The shape of a tensor, copied from ONNX Runtime.
class Shape {
 public:
  Shape(const ort::OrtApi& api, const ort::OrtTensorTypeAndShapeInfo* info) { Read(api, info); }

  Shape(const ort::OrtApi& api, const ort::OrtValue* value) {
    ort::OrtTensorTypeAndShapeInfo* info = nullptr;
    Check(ort::GetTensorTypeAndShape(api, value, &info));
    const auto release = [&api](ort::OrtTensorTypeAndShapeInfo* held) {
      ort::ReleaseTensorTypeAndShapeInfo(api, held);
    };
    const std::unique_ptr<ort::OrtTensorTypeAndShapeInfo, decltype(release)> owner(info, release);
    Read(api, info);
  }

  ShapeView view() const { return {rank_ > kUsualRank ? more_.get() : sizes_, rank_}; }
  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t axis) const { return view().sizes[axis]; }

  std::int64_t count() const {
    std::int64_t product = 1;
    for (std::size_t axis = 0; axis < rank_; ++axis) {
      product *= (*this)[axis];
    }
    return product;
  }

  bool operator==(const Shape& other) const {
    bool same = rank_ == other.rank_;
    for (std::size_t axis = 0; same && axis < rank_; ++axis) {
      same = (*this)[axis] == other[axis];
    }
    return same;
  }

 private:
  static constexpr std::size_t kUsualRank = 8;

  void Read(const ort::OrtApi& api, const ort::OrtTensorTypeAndShapeInfo* info) {
    Check(ort::GetDimensionsCount(api, info, &rank_));
    if (rank_ > kUsualRank) {
      more_ = std::make_unique<std::int64_t[]>(rank_);
    }
    Check(ort::GetDimensions(api, info, rank_ > kUsualRank ? more_.get() : sizes_, rank_));
  }

  std::size_t rank_ = 0;
  std::int64_t sizes_[kUsualRank];
  std::unique_ptr<std::int64_t[]> more_;
};

// How many inputs a node was given, the optional ones included.
inline std::size_t InputCount(const ort::OrtApi& api, const ort::OrtKernelContext* context) {
  std::size_t inputs = 0;
  Check(ort::KernelContext_GetInputCount(api, context, &inputs));
  return inputs;
}

// Input number `index` of a run; null where an optional one was left out.
inline const ort::OrtValue* Input(const ort::OrtApi& api, const ort::OrtKernelContext* context, std::size_t index) {
  const ort::OrtValue* value = nullptr;
  Check(ort::KernelContext_GetInput(api, context, index, &value));
  return value;
}

// The shape of input number `index` of a node that is an initializer; null where it is not one, or not there.
inline std::unique_ptr<const Shape> ConstantShape(const ort::OrtApi& api, const ort::OrtKernelInfo* info,
                                                  std::size_t index) {
  int is_constant = 0;
  const ort::OrtValue* value = nullptr;
  Check(ort::KernelInfoGetConstantInput_tensor(api, info, index, &is_constant, &value));
  return is_constant != 0 ? std::make_unique<const Shape>(api, value) : nullptr;
}

template <class T>
T* Data(const ort::OrtApi& api, const ort::OrtValue* value) {
  void* data = nullptr;
  // Only the C API's one accessor for reading and writing makes this cast necessary.
  Check(ort::GetTensorMutableData(api, const_cast<ort::OrtValue*>(value), &data));
  return static_cast<T*>(data);
}

}  // namespace onnxfit
