"""Fill a Triton model repository with a hardened model and the custom-op library.

For a GPU the library is left out unless it was built with CUDA kernels: registered without them,
it would compute every activation on the CPU and copy there and back.
"""

import argparse
import shutil
from pathlib import Path

import onnxfit

NAME = "digits"
TEMPLATE = Path(__file__).parent / "model_repository" / NAME / "config.pbtxt"
LIBRARY = f"/models/{NAME}/libonnxfit_ops.so"
# How the template's last part begins, which names the library.
KERNELS = "\n# The JumpReLU kernels"


def library_for(provider: str) -> Path | None:
    """Return the custom-op library where it was built for the provider."""
    build = onnxfit.diagnose().build
    return onnxfit.library_path() if build and provider in build["providers"] else None


def prepare(
    model: Path, repository: Path, mounted_at: str, gpu: bool, library: Path | None
) -> None:
    """Write ``config.pbtxt``, ``1/model.onnx`` with its external data, and the library."""
    folder = repository / NAME
    (folder / "1").mkdir(parents=True, exist_ok=True)
    config = TEMPLATE.read_text(encoding="utf-8")
    if gpu:
        config = config.replace("kind: KIND_CPU", "kind: KIND_GPU")
    if library is None:
        config, _, _ = config.partition(KERNELS)
    else:
        config = config.replace(LIBRARY, f"{mounted_at}/{NAME}/{library.name}")
        # Renamed into place: overwriting a library that a server has loaded would crash it.
        copy = shutil.copyfile(library, folder / f".{library.name}.part")
        copy.replace(folder / library.name)
    onnxfit.save(onnxfit.load(model), folder / "1" / "model.onnx", model.parent)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")


def main() -> None:
    """Read the command line and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="hardened .onnx file")
    parser.add_argument("repository", type=Path, help="folder to fill")
    parser.add_argument("--mounted-at", default="/models", help="that folder in the server")
    parser.add_argument("--gpu", action="store_true", help="run the model on the GPU")
    parser.add_argument("--no-library", action="store_true", help="use the function body")
    arguments = parser.parse_args()

    provider = "CUDAExecutionProvider" if arguments.gpu else "CPUExecutionProvider"
    library = None if arguments.no_library else library_for(provider)
    prepare(arguments.model, arguments.repository, arguments.mounted_at, arguments.gpu, library)
    print(f"wrote {arguments.repository / NAME}")
    print(f"JumpReLU runs through {library.name if library else 'the function in the model'}")


if __name__ == "__main__":
    main()
