"""Does the twin agree with ONNX Runtime, network by network, on real data?

The networks are the nine that the onnx package bundles and those in the folder that
``ONNXFIT_SHARED`` names, each plain and hardened; ``onnxfit.parity`` compares.

    python benchmarks/twin_parity.py [--samples 500] [NAME …]
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto

import onnxfit
from onnxfit.errors import OnnxfitError

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from corpus import CORPUS, NOT_RUN, REFUSED, feeds_for, labelled_images, manifest, read, real_inputs

JUMP = 0.1
COLUMNS = (
    "network",
    "samples",
    "largest difference",
    "relative",
    "same class",
    "hardened: same class",
    "hardened: flips",
    "accuracy of the twin",
    "gradient reaches",
    "built in, s",
    "agrees",
)


def gradient(twin: torch.nn.Module, inputs: list[torch.Tensor]) -> str:
    """Say what share of the first input's elements the gradient of the outputs reaches."""
    x = inputs[0].clone()
    if not x.is_floating_point():
        return "no floating input"
    outputs = twin(x.requires_grad_(), *inputs[1:])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sums = [o.double().square().sum() for o in outputs if o.requires_grad]
    if not sums:
        return "none"
    (found,) = torch.autograd.grad(torch.stack(sums).sum(), x)
    if not torch.isfinite(found).all():
        return "not finite"
    return f"{(found != 0).double().mean():.0%}"


def accuracy(twin: torch.nn.Module, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of samples that the twin classifies rightly."""
    with torch.no_grad():
        parts = [twin(part) for part in torch.from_numpy(x).split(50)]
    logits = torch.cat([p[0] if isinstance(p, tuple) else p for p in parts])
    return float(np.mean(logits.float().flatten(1).argmax(1).numpy() == labels))


def row(name: str, samples: int) -> list[str]:
    """Compare one network."""
    source = read(name)
    data = manifest().get(name, {}).get("data")
    model, folder = source.model, source.folder
    if data:
        n = min(samples, 50) if data == "imagenet" else samples
        x = real_inputs(source, n)
        assert x is not None
        inputs = [x]
    else:
        inputs = [np.asarray(array) for array in feeds_for(source)[0].values()]
    start = time.perf_counter()
    twin = onnxfit.to_torch(model, folder)
    built = time.perf_counter() - start
    found = onnxfit.parity(model, twin, inputs if len(inputs) > 1 else inputs[0], folder)
    hardened = harden(model)
    cells = [f"{found.largest_difference:.1e}", f"{found.relative_difference:.1e}"]
    cells.append(f"{found.top1_agreement:.1%}" if data else "–")
    if hardened is None:
        cells += ["–", "–"]
    else:
        hard = onnxfit.to_torch(hardened, folder)
        own = onnxfit.parity(hardened, hard, inputs if len(inputs) > 1 else inputs[0], folder)
        cells += [f"{own.top1_agreement:.1%}" if data else "–", f"{own.flips} of {own.samples}"]
    cells.append("–")
    if data:
        labels = labelled_images(data, len(inputs[0]))[1]
        cells[-1] = f"{accuracy(twin, inputs[0], labels):.1%}"
    tensors = [torch.from_numpy(array[:4] if data else array) for array in inputs]
    verdict = "yes" if found.agrees else f"**no**, from {found.first_difference}"
    return [name, str(found.samples), *cells, gradient(twin, tensors), f"{built:.2f}", verdict]


def harden(model: ModelProto) -> ModelProto | None:
    """Return the hardened model, None where there is nothing to harden."""
    try:
        return onnxfit.retrofit(model, JUMP)
    except OnnxfitError:
        return None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(2)
    print("# The twin beside ONNX Runtime\n")
    print(
        f"`python benchmarks/twin_parity.py --samples {options.samples}`, torch "
        f"{torch.__version__}, ONNX Runtime {onnxruntime.__version__} on the CPU of "
        f"{platform.machine()}. Hardened: jump {JUMP} at every site. Networks without data of\n"
        "their own get noise, whose classes say nothing.\n"
    )
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for name in options.names or CORPUS:
        if name in NOT_RUN:
            continue
        if name in REFUSED and "opset1" in name:
            continue
        try:
            cells = row(name, options.samples)
        except OnnxfitError as error:
            cells = [name, *["–"] * (len(COLUMNS) - 2), f"**{type(error).__name__}**: {error}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
