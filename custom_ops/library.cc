// The entry point that ONNX Runtime calls when the library is registered with a session's options.
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "export.h"
#include "op.h"

namespace onnxfit {
namespace {

// The operators for one runtime, and the domain that lists them.
class Domain {
 public:
  explicit Domain(const ort::OrtApi& api) : api_(api) {
    Check(ort::CreateCustomOpDomain(api, "onnxfit", &domain_));
  }
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;
  ~Domain() { ort::ReleaseCustomOpDomain(api_, domain_); }

  // For every element type.
  template <class Definition, class Provider>
  void AddOps() {
    Add<Op<Definition, float, Provider>>();
    Add<Op<Definition, double, Provider>>();
    Add<Op<Definition, Float16, Provider>>();
    Add<Op<Definition, BFloat16, Provider>>();
  }

  template <class OpType>
  void Add() {
    ops_.push_back(std::make_shared<OpType>(api_));
    Check(ort::CustomOpDomain_Add(api_, domain_, ops_.back().get()));
  }

  ort::OrtCustomOpDomain* get() const { return domain_; }

 private:
  const ort::OrtApi& api_;
  ort::OrtCustomOpDomain* domain_ = nullptr;
  std::vector<std::shared_ptr<const ort::OrtCustomOp>> ops_;
};

// One domain per runtime in this process, shared by all its sessions. They are never destroyed: a session may outlive
// the globals of this library.
const Domain& DomainFor(const ort::OrtApi& api) {
  static std::mutex mutex;
  static auto& domains = *new std::map<const ort::OrtApi*, std::unique_ptr<Domain>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Domain>& known = domains[&api];
  if (known == nullptr) {
    auto domain = std::make_unique<Domain>(api);
    domain->AddOps<JumpReluDefinition, Cpu>();
    domain->AddOps<AddJumpReluDefinition, Cpu>();
    domain->Add<Op<NchwcJumpReluDefinition, float, Cpu>>();
#if defined(ONNXFIT_WITH_CUDA)
    domain->AddOps<JumpReluDefinition, Cuda>();
    domain->AddOps<AddJumpReluDefinition, Cuda>();
#endif
    known = std::move(domain);
  }
  return *known;
}

}  // namespace
}  // namespace onnxfit

ONNXFIT_EXPORT onnxfit::ort::OrtStatus* ONNXFIT_ORT_CALL RegisterCustomOps(onnxfit::ort::OrtSessionOptions* options,
                                                                           const onnxfit::ort::OrtApiBase* base) {
  const onnxfit::ort::OrtApi* api = base->GetApi(onnxfit::ort::kApiVersion);
  if (api == nullptr) {
    // An older runtime: the model's function body stands in for the operator.
    return nullptr;
  }
  return onnxfit::Guard(*api, [&] {
    onnxfit::Check(onnxfit::ort::AddCustomOpDomain(*api, options, onnxfit::DomainFor(*api).get()));
  });
}
