"""Run a hardened model in Python with the JumpReLU kernels, in one of two ways.

With onnxfit installed, ``onnxfit.session`` registers the custom-op library where it serves the
providers. With ``--library`` onnxfit is not needed: the shared library is all that ships, and it
is for you to register it with providers that it was built for (``onnxfit doctor`` lists them).
"""

import argparse
from collections.abc import Sequence

import numpy as np
import onnxruntime


def session_with_onnxfit(model: str, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    """Start a session; onnxfit decides whether the library helps."""
    import onnxfit

    return onnxfit.session(model, providers=providers)


def session_with_library(
    model: str, providers: Sequence[str], library: str
) -> onnxruntime.InferenceSession:
    """Start a session with the library at a path, as copied from ``onnxfit.library_path()``."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=providers)


def main() -> None:
    """Print the accuracy of a model on a labelled data set, and the providers that ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="hardened .onnx file")
    parser.add_argument("data", help=".npz file with the arrays x (float32) and y (labels)")
    parser.add_argument("--library", help="path of the custom-op library; without it, use onnxfit")
    parser.add_argument(
        "--provider", action="append", help="execution provider, repeatable; default: the CPU's"
    )
    arguments = parser.parse_args()

    providers = arguments.provider or ["CPUExecutionProvider"]
    if arguments.library:
        session = session_with_library(arguments.model, providers, arguments.library)
    else:
        session = session_with_onnxfit(arguments.model, providers)
    with np.load(arguments.data) as data:
        inputs, labels = data["x"], data["y"]
    logits = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    correct = int((logits.argmax(axis=1) == labels).sum())
    print(f"accuracy   {correct / len(labels):.4f} ({correct} of {len(labels)})")
    print(f"providers  {', '.join(session.get_providers())}")


if __name__ == "__main__":
    main()
