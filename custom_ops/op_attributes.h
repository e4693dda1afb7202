// The attributes of a node, read and judged when a session starts.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "ort_abi.h"
#include "ort_status.h"

namespace onnxfit {

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

// The attribute `jump` of an operator; 0 where there is none.
inline float JumpAttribute(const ort::OrtApi& api, const ort::OrtKernelInfo* info, const char* op) {
  float jump = 0;
  if (!Succeeded(api, ort::KernelInfoGetAttribute_float(api, info, "jump", &jump))) {
    if (HasAttributeOfOtherType(api, info, "jump")) {
      throw std::invalid_argument(std::string("onnxfit::") + op + ": attribute 'jump' must be a float");
    }
    return 0;
  }
  if (!std::isfinite(jump) || jump < 0) {
    char message[96];
    std::snprintf(message, sizeof message, "onnxfit::%s: attribute 'jump' must be finite and at least 0, got %g", op,
                  jump);
    throw std::invalid_argument(message);
  }
  return jump;
}

// The attribute `block`: how many channels lie side by side in ONNX Runtime's blocked layout.
inline std::int64_t BlockAttribute(const ort::OrtApi& api, const ort::OrtKernelInfo* info, const char* op) {
  std::int64_t block = 0;
  if (!Succeeded(api, ort::KernelInfoGetAttribute_int64(api, info, "block", &block)) || block < 1) {
    throw std::invalid_argument(std::string("onnxfit::") + op + ": attribute 'block' must be an integer of at least 1");
  }
  return block;
}

}  // namespace onnxfit
