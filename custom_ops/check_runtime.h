// A stand-in for ONNX Runtime, just enough to drive the library under the sanitizers: every call may be made to fail.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check_cases.h"
#include "ort_abi.h"

namespace onnxfit::ort {

// The stand-in's own versions of the types that are opaque to the library.
struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};
struct OrtTensorTypeAndShapeInfo {
  check::Shape shape;
  std::vector<const char*> names;
};
struct OrtValue {
  check::Shape shape;
  void* data;
};
// The attributes of a node: `jump` where it is a float, `jump_is_integer` where somebody gave a 1, `block` if positive;
// and the one input that is an initializer, if any.
struct OrtKernelInfo {
  const float* jump = nullptr;
  bool jump_is_integer = false;
  std::int64_t block = 0;
  const OrtValue* constant = nullptr;
  std::size_t constant_index = 0;
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;
  OrtValue output;
  void* stream;
};
struct OrtShapeInferContext {
  std::vector<OrtTensorTypeAndShapeInfo> inputs;
  const OrtTensorTypeAndShapeInfo* output;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
};

}  // namespace onnxfit::ort

namespace onnxfit::check {

using namespace ort;

inline void Require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::exit(1);
  }
}

inline void Require(bool holds, const std::string& what) { Require(holds, what.c_str()); }

inline int calls_until_failure = -1;  // Negative: no call fails.

inline OrtStatus* MakeStatus(OrtErrorCode code, const char* message) { return new OrtStatus{code, message}; }

// What a fallible function of the stand-in does: fail when its turn has come, else `body`.
template <class Body>
OrtStatus* Fallible(Body body) {
  if (calls_until_failure-- == 0) {
    return MakeStatus(ORT_FAIL, "injected");
  }
  body();
  return nullptr;
}

template <class SlotType>
void Set(OrtApi& api, const SlotType&, typename SlotType::Function function) {
  api.slots[SlotType::kIndex] = reinterpret_cast<void (*)()>(function);
}

inline OrtApi MakeApi() {
  OrtApi api{};
  Set(api, CreateStatus, MakeStatus);
  Set(api, ReleaseStatus, [](OrtStatus* status) { delete status; });
  Set(api, CreateCustomOpDomain, [](const char* name, OrtCustomOpDomain** out) {
    Require(std::string(name) == "onnxfit", "the domain is onnxfit");
    return Fallible([&] { *out = new OrtCustomOpDomain; });
  });
  Set(api, ReleaseCustomOpDomain, [](OrtCustomOpDomain* domain) { delete domain; });
  Set(api, CustomOpDomain_Add, [](OrtCustomOpDomain* domain, const OrtCustomOp* op) {
    return Fallible([&] { domain->ops.push_back(op); });
  });
  Set(api, AddCustomOpDomain, [](OrtSessionOptions* options, OrtCustomOpDomain* domain) {
    return Fallible([&] { options->domains.push_back(domain); });
  });
  Set(api, KernelInfoGetAttribute_float, [](const OrtKernelInfo* info, const char*, float* out) {
    if (info->jump == nullptr) {
      return MakeStatus(ORT_FAIL, "no float attribute");
    }
    return Fallible([&] { *out = *info->jump; });
  });
  Set(api, KernelInfoGetAttribute_int64, [](const OrtKernelInfo* info, const char* name, std::int64_t* out) {
    const bool block = std::string(name) == "block";
    *out = block ? info->block : 1;
    return (block ? info->block != 0 : info->jump_is_integer) ? nullptr : MakeStatus(ORT_FAIL, "no integer attribute");
  });
  Set(api, KernelInfoGetAttribute_string, [](const OrtKernelInfo*, const char*, char*, std::size_t*) {
    return MakeStatus(ORT_FAIL, "no string attribute");
  });
  Set(api, KernelInfoGetAttributeArray_float, [](const OrtKernelInfo*, const char*, float*, std::size_t*) {
    return MakeStatus(ORT_FAIL, "no list attribute");
  });
  Set(api, KernelInfoGetConstantInput_tensor,
      [](const OrtKernelInfo* info, std::size_t index, int* is_constant, const OrtValue** out) {
        return Fallible([&] {
          *is_constant = info->constant != nullptr && info->constant_index == index;
          *out = *is_constant ? info->constant : nullptr;
        });
      });
  Set(api, KernelContext_GetInputCount, [](const OrtKernelContext* context, std::size_t* out) {
    return Fallible([&] { *out = context->inputs.size(); });
  });
  Set(api, KernelContext_GetInput, [](const OrtKernelContext* context, std::size_t index, const OrtValue** out) {
    return Fallible([&] { *out = context->inputs.at(index); });
  });
  Set(api, KernelContext_GetOutput,
      [](OrtKernelContext* context, std::size_t, const std::int64_t* shape, std::size_t rank, OrtValue** out) {
        return Fallible([&] {
          context->output.shape.assign(shape, shape + rank);
          *out = &context->output;
        });
      });
  Set(api, GetTensorTypeAndShape, [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
    return Fallible([&] { *out = new OrtTensorTypeAndShapeInfo{value->shape, {}}; });
  });
  Set(api, ReleaseTensorTypeAndShapeInfo, [](OrtTensorTypeAndShapeInfo* info) { delete info; });
  Set(api, GetDimensionsCount, [](const OrtTensorTypeAndShapeInfo* info, std::size_t* out) {
    return Fallible([&] { *out = info->shape.size(); });
  });
  Set(api, GetDimensions, [](const OrtTensorTypeAndShapeInfo* info, std::int64_t* out, std::size_t rank) {
    return Fallible([&] { std::copy_n(info->shape.begin(), rank, out); });
  });
  Set(api, GetSymbolicDimensions, [](const OrtTensorTypeAndShapeInfo* info, const char** out, std::size_t rank) {
    return Fallible([&] { std::copy_n(info->names.begin(), rank, out); });
  });
  Set(api, GetTensorMutableData, [](OrtValue* value, void** out) { return Fallible([&] { *out = value->data; }); });
  Set(api, KernelContext_GetGPUComputeStream, [](const OrtKernelContext* context, void** out) {
    return Fallible([&] { *out = context->stream; });
  });
  Set(api, KernelContext_ParallelFor,
      [](const OrtKernelContext*, void (*body)(void*, std::size_t), std::size_t total, std::size_t, void* data) {
        return Fallible([&] {
          const auto every_second = [&](std::size_t first) {
            for (std::size_t i = first; i < total; i += 2) {
              body(data, i);
            }
          };
          std::thread other(every_second, 1);
          every_second(0);
          other.join();
        });
      });
  Set(api, ShapeInferContext_GetInputTypeShape,
      [](const OrtShapeInferContext* context, std::size_t index, OrtTensorTypeAndShapeInfo** out) {
        return Fallible([&] { *out = const_cast<OrtTensorTypeAndShapeInfo*>(&context->inputs.at(index)); });
      });
  Set(api, ShapeInferContext_SetOutputTypeShape,
      [](const OrtShapeInferContext* context, std::size_t, const OrtTensorTypeAndShapeInfo* info) {
        return Fallible([&] { const_cast<OrtShapeInferContext*>(context)->output = info; });
      });
  return api;
}

inline const OrtApi& Api() {
  static const OrtApi api = MakeApi();
  return api;
}

inline const OrtApi* GetApi(std::uint32_t version) { return version == kApiVersion ? &Api() : nullptr; }
inline const OrtApi* GetNoApi(std::uint32_t) { return nullptr; }
inline const char* GetVersionString() { return "stand-in"; }

// The message of a status that must be there, which this releases.
inline std::string TakeMessage(OrtStatus* status, OrtErrorCode code, const std::string& what) {
  Require(status != nullptr, what + " must fail");
  Require(status->code == code, what + " has another error code");
  const std::unique_ptr<OrtStatus> owner(status);
  return status->message;
}

struct Kernel {
  const OrtCustomOp* op;
  void* node = nullptr;

  Kernel(const OrtCustomOp* custom_op, const OrtKernelInfo& info) : op(custom_op) {
    Require(op->CreateKernelV2(op, &Api(), &info, &node) == nullptr, "a kernel is created");
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() { op->KernelDestroy(node); }
};

}  // namespace onnxfit::check
