"""Run a hardened model with ONNX Runtime and NumPy alone; onnxfit need not be installed.

ONNX Runtime finds no kernel for JumpReLU and inlines the function that the file carries.
"""

import argparse

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def predict(
    session: onnxruntime.InferenceSession, inputs: NDArray[np.float32], batch_size: int
) -> NDArray[np.int64]:
    """Return the class with the largest logit for each input."""
    name = session.get_inputs()[0].name
    classes = [
        session.run(None, {name: inputs[start : start + batch_size]})[0].argmax(axis=1)
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate(classes)


def main() -> None:
    """Print the accuracy of a model on a labelled data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="hardened .onnx file")
    parser.add_argument("data", help=".npz file with the arrays x (float32) and y (labels)")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    with np.load(arguments.data) as data:
        inputs, labels = data["x"], data["y"]
    correct = int((predict(session, inputs, arguments.batch_size) == labels).sum())
    print(f"accuracy   {correct / len(labels):.4f} ({correct} of {len(labels)})")
    print(f"providers  {', '.join(session.get_providers())}")


if __name__ == "__main__":
    main()
