# Looks for nvcc and describes the CUDA build. Sets ONNXFIT_WITH_CUDA.

# Named before the language is enabled, or CMake would fill in a default of its own.
if(DEFINED CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
  set(chosen_by_user TRUE)
else()
  set(chosen_by_user FALSE)
endif()

check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
elseif(ONNXFIT_CUDA STREQUAL "ON")
  message(FATAL_ERROR "onnxfit: ONNXFIT_CUDA is ON and no CUDA compiler was found; set CUDACXX to nvcc")
else()
  message(STATUS "onnxfit: no CUDA compiler found, building the CPU kernels only")
  return()
endif()

if(NOT chosen_by_user)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE supported COMMAND_ERROR_IS_FATAL ANY)
  set(CMAKE_CUDA_ARCHITECTURES "")
  foreach(architecture IN ITEMS 75 80 86 89 90 100 120)
    if(supported MATCHES "compute_${architecture}\n")
      list(APPEND CMAKE_CUDA_ARCHITECTURES "${architecture}-real")
      set(newest "${architecture}")
    endif()
  endforeach()
  # PTX of the newest, for GPUs that are newer still.
  list(APPEND CMAKE_CUDA_ARCHITECTURES "${newest}-virtual")
endif()

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
string(APPEND CMAKE_CUDA_FLAGS " --threads=2")

set(ONNXFIT_WITH_CUDA TRUE)
string(APPEND ONNXFIT_PROVIDERS_JSON ", \"CUDAExecutionProvider\"")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" cuda_version "${CMAKE_CUDA_COMPILER_VERSION}")
set(ONNXFIT_CUDA_VERSION_JSON "\"${cuda_version}\"")
list(TRANSFORM CMAKE_CUDA_ARCHITECTURES REPLACE "(.+)" "\"\\1\"" OUTPUT_VARIABLE quoted)
list(JOIN quoted ", " ONNXFIT_CUDA_ARCHITECTURES_JSON)
