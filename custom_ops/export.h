// Marks the library's two public functions; everything else is hidden.
#pragma once

#if defined(_WIN32)
#define ONNXFIT_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNXFIT_EXPORT extern "C" __attribute__((visibility("default")))
#endif
