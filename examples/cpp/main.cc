// Classifies raw float32 inputs with a hardened model in ONNX Runtime, with or without the custom-op library.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::vector<float> ReadFloats(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    throw std::runtime_error("cannot open " + path.string());
  }
  const std::streamoff bytes = file.tellg();
  if (bytes <= 0 || bytes % sizeof(float) != 0) {
    throw std::runtime_error(path.string() + " does not hold float32 numbers: it has " + std::to_string(bytes) +
                             " bytes");
  }
  std::vector<float> values(static_cast<std::size_t>(bytes) / sizeof(float));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(values.data()), bytes)) {
    throw std::runtime_error("cannot read " + path.string());
  }
  return values;
}

// The model's input shape, its batch dimension filled in such that it holds `count` numbers.
std::vector<std::int64_t> BatchShape(const Ort::Session& session, std::size_t count) {
  const Ort::TypeInfo type = session.GetInputTypeInfo(0);
  const auto tensor = type.GetTensorTypeAndShapeInfo();
  std::vector<std::int64_t> shape = tensor.GetShape();
  if (tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || shape.empty() ||
      std::any_of(shape.begin() + 1, shape.end(), [](std::int64_t size) { return size < 1; })) {
    throw std::runtime_error("this example wants a float input in which only the batch dimension is open");
  }
  const std::int64_t sample =
      std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<std::int64_t>());
  const auto total = static_cast<std::int64_t>(count);
  if (total % sample != 0 || (shape[0] > 0 && shape[0] != total / sample)) {
    throw std::runtime_error("the input holds " + std::to_string(total) + " numbers; a sample of this model has " +
                             std::to_string(sample));
  }
  shape[0] = total / sample;
  return shape;
}

void Classify(const std::filesystem::path& model, const std::filesystem::path& input,
              const std::filesystem::path& library) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "classify");
  Ort::SessionOptions options;
  if (!library.empty()) {
    // Without this call ONNX Runtime inlines the function that the file carries.
    options.RegisterCustomOpsLibrary(library.c_str());
  }
  Ort::Session session(env, model.c_str(), options);

  std::vector<float> values = ReadFloats(input);
  const std::vector<std::int64_t> shape = BatchShape(session, values.size());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value batch =
      Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::AllocatedStringPtr input_name = session.GetInputNameAllocated(0, allocator);
  const Ort::AllocatedStringPtr output_name = session.GetOutputNameAllocated(0, allocator);
  const char* const inputs[] = {input_name.get()};
  const char* const outputs[] = {output_name.get()};
  const std::vector<Ort::Value> results = session.Run(Ort::RunOptions{}, inputs, &batch, 1, outputs, 1);

  const auto info = results[0].GetTensorTypeAndShapeInfo();
  const std::vector<std::int64_t> sizes = info.GetShape();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || sizes.size() != 2 || sizes[0] != shape[0] ||
      sizes[1] < 1) {
    throw std::runtime_error("this example wants a float output of one row of logits per sample");
  }
  const float* logits = results[0].GetTensorData<float>();
  const std::int64_t classes = sizes[1];
  for (std::int64_t sample = 0; sample < shape[0]; ++sample, logits += classes) {
    std::printf("%td", std::max_element(logits, logits + classes) - logits);
    std::for_each(logits, logits + classes, [](float logit) { std::printf(" %.9g", logit); });
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL.onnx INPUT.f32 [LIBRARY]\n", argv[0]);
    return 2;
  }
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    std::fprintf(stderr, "classify: built for ONNX Runtime 1.%d or newer, this is %s\n", ORT_API_VERSION,
                 OrtGetApiBase()->GetVersionString());
    return 1;
  }
  try {
    Classify(argv[1], argv[2], argc == 4 ? argv[3] : "");
  } catch (const std::exception& error) {  // Ort::Exception is one.
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 1;
  }
  return 0;
}
