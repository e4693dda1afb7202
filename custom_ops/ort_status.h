// The border between C++ exceptions and ONNX Runtime's OrtStatus.
#pragma once

#include <exception>
#include <stdexcept>

#include "ort_abi.h"

namespace onnxfit {

// A status that an ONNX Runtime function returned, on its way back to ONNX Runtime.
struct OrtFailure {
  ort::OrtStatus* status;
};

inline void Check(ort::OrtStatus* status) {
  if (status != nullptr) {
    throw OrtFailure{status};
  }
}

// Run `body` and turn whatever it throws into a status: no exception may cross the C ABI.
template <class Body>
ort::OrtStatus* Guard(const ort::OrtApi& api, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const OrtFailure& failure) {
    return failure.status;
  } catch (const std::invalid_argument& error) {
    return ort::CreateStatus(api, ort::ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return ort::CreateStatus(api, ort::ORT_FAIL, error.what());
  } catch (...) {
    return ort::CreateStatus(api, ort::ORT_FAIL, "onnxfit: unknown exception");
  }
}

}  // namespace onnxfit
