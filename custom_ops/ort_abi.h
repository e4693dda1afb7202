// The slice of ONNX Runtime's C ABI that this library uses, since its wheels ship no headers.
//
// ONNX Runtime only ever appends to OrtApi and OrtCustomOp, so an index or a member that is right for kApiVersion is
// right for every later release. tests/test_abi.py compares this file with the official header.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ONNXFIT_ORT_CALL __stdcall
#else
#define ONNXFIT_ORT_CALL
#endif

namespace onnxfit::ort {

// The lowest version whose table holds all the slots below; the newest is OrtCustomOp::GetMayInplace.
inline constexpr std::uint32_t kApiVersion = 18;

struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

enum OrtErrorCode : int {
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
};

enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

enum OrtCustomOpInputOutputCharacteristic : int {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
};

enum OrtMemType : int {
  OrtMemTypeDefault = 0,
};

// A table of function pointers; Slot gives each one its type back.
struct OrtApi {
  void (*slots[275])();
};

struct OrtApiBase {
  const OrtApi*(ONNXFIT_ORT_CALL* GetApi)(std::uint32_t);
  const char*(ONNXFIT_ORT_CALL* GetVersionString)();
};

struct OrtCustomOp {
  std::uint32_t version;
  void*(ONNXFIT_ORT_CALL* CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char*(ONNXFIT_ORT_CALL* GetName)(const OrtCustomOp*);
  const char*(ONNXFIT_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType(ONNXFIT_ORT_CALL* GetInputType)(const OrtCustomOp*, std::size_t);
  std::size_t(ONNXFIT_ORT_CALL* GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType(ONNXFIT_ORT_CALL* GetOutputType)(const OrtCustomOp*, std::size_t);
  std::size_t(ONNXFIT_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void(ONNXFIT_ORT_CALL* KernelCompute)(void*, OrtKernelContext*);
  void(ONNXFIT_ORT_CALL* KernelDestroy)(void*);
  OrtCustomOpInputOutputCharacteristic(ONNXFIT_ORT_CALL* GetInputCharacteristic)(const OrtCustomOp*, std::size_t);
  OrtCustomOpInputOutputCharacteristic(ONNXFIT_ORT_CALL* GetOutputCharacteristic)(const OrtCustomOp*, std::size_t);
  OrtMemType(ONNXFIT_ORT_CALL* GetInputMemoryType)(const OrtCustomOp*, std::size_t);
  int(ONNXFIT_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp*);
  int(ONNXFIT_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int(ONNXFIT_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp*);
  int(ONNXFIT_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus*(ONNXFIT_ORT_CALL* CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus*(ONNXFIT_ORT_CALL* KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus*(ONNXFIT_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(ONNXFIT_ORT_CALL* GetStartVersion)(const OrtCustomOp*);
  int(ONNXFIT_ORT_CALL* GetEndVersion)(const OrtCustomOp*);
  std::size_t(ONNXFIT_ORT_CALL* GetMayInplace)(int**, int**);
  void(ONNXFIT_ORT_CALL* ReleaseMayInplace)(int*, int*);
  std::size_t(ONNXFIT_ORT_CALL* GetAliasMap)(int**, int**);
  void(ONNXFIT_ORT_CALL* ReleaseAliasMap)(int*, int*);
};

template <std::size_t kIndex, class Signature>
struct Slot;

// Slot number kIndex of OrtApi, callable with the API table in front of its own arguments.
template <std::size_t index, class Result, class... Arguments>
struct Slot<index, Result(Arguments...)> {
  using Function = Result(ONNXFIT_ORT_CALL*)(Arguments...);
  static constexpr std::size_t kIndex = index;
  static_assert(index < sizeof(OrtApi) / sizeof(void*), "OrtApi::slots is too short for this index");

  Result operator()(const OrtApi& api, Arguments... arguments) const {
    return reinterpret_cast<Function>(api.slots[kIndex])(arguments...);
  }
};

// clang-format off
inline constexpr Slot<0, OrtStatus*(OrtErrorCode, const char*)> CreateStatus;
inline constexpr Slot<26, OrtStatus*(const char*, OrtCustomOpDomain**)> CreateCustomOpDomain;
inline constexpr Slot<27, OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)> CustomOpDomain_Add;
inline constexpr Slot<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)> AddCustomOpDomain;
inline constexpr Slot<51, OrtStatus*(OrtValue*, void**)> GetTensorMutableData;
inline constexpr Slot<61, OrtStatus*(const OrtTensorTypeAndShapeInfo*, std::size_t*)> GetDimensionsCount;
inline constexpr Slot<62, OrtStatus*(const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t)> GetDimensions;
inline constexpr Slot<63, OrtStatus*(const OrtTensorTypeAndShapeInfo*, const char**, std::size_t)> GetSymbolicDimensions;
inline constexpr Slot<65, OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)> GetTensorTypeAndShape;
inline constexpr Slot<85, OrtStatus*(const OrtKernelInfo*, const char*, float*)> KernelInfoGetAttribute_float;
inline constexpr Slot<86, OrtStatus*(const OrtKernelInfo*, const char*, std::int64_t*)> KernelInfoGetAttribute_int64;
inline constexpr Slot<87, OrtStatus*(const OrtKernelInfo*, const char*, char*, std::size_t*)> KernelInfoGetAttribute_string;
inline constexpr Slot<88, OrtStatus*(const OrtKernelContext*, std::size_t*)> KernelContext_GetInputCount;
inline constexpr Slot<90, OrtStatus*(const OrtKernelContext*, std::size_t, const OrtValue**)> KernelContext_GetInput;
inline constexpr Slot<91, OrtStatus*(OrtKernelContext*, std::size_t, const std::int64_t*, std::size_t, OrtValue**)> KernelContext_GetOutput;
inline constexpr Slot<93, void(OrtStatus*)> ReleaseStatus;
inline constexpr Slot<99, void(OrtTensorTypeAndShapeInfo*)> ReleaseTensorTypeAndShapeInfo;
inline constexpr Slot<101, void(OrtCustomOpDomain*)> ReleaseCustomOpDomain;
inline constexpr Slot<162, OrtStatus*(const OrtKernelInfo*, const char*, float*, std::size_t*)> KernelInfoGetAttributeArray_float;
inline constexpr Slot<193, OrtStatus*(const OrtKernelContext*, void**)> KernelContext_GetGPUComputeStream;
inline constexpr Slot<249, OrtStatus*(const OrtKernelInfo*, std::size_t, int*, const OrtValue**)> KernelInfoGetConstantInput_tensor;
inline constexpr Slot<268, OrtStatus*(const OrtShapeInferContext*, std::size_t, OrtTensorTypeAndShapeInfo**)> ShapeInferContext_GetInputTypeShape;
inline constexpr Slot<270, OrtStatus*(const OrtShapeInferContext*, std::size_t, const OrtTensorTypeAndShapeInfo*)> ShapeInferContext_SetOutputTypeShape;
inline constexpr Slot<274, OrtStatus*(const OrtKernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*)> KernelContext_ParallelFor;
// clang-format on

}  // namespace onnxfit::ort
