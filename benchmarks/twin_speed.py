"""Does a twin cost more than the network written by hand? Time, memory, and the building.

Each network of ``twin_networks.py`` is exported to ONNX and turned into a twin, and forward and
backward passes of both run in turns in one process: once with the gradient of the input alone, as
an attack takes it, and once with those of all weights, as training does. Both are in channels-last
layout or both are not. Peak memory is that of a process of its own for each.

    python benchmarks/twin_speed.py [--rounds 15] [--batch 32] [--threads 1]
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from environment import provenance
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from twin_networks import NETWORKS, make, to_onnx

import onnxfit

SHAPE = (3, 32, 32)


def step(network: torch.nn.Module, x: torch.Tensor, weights: bool) -> None:
    """Run forward and backward once."""
    x = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(x), torch.zeros(len(x), dtype=torch.long))
    targets = [x, *network.parameters()] if weights else [x]
    torch.autograd.grad(loss, targets)


def seconds(run: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(
    network: torch.nn.Module, twin: torch.nn.Module, x: torch.Tensor, weights: bool, rounds: int
) -> tuple[float, float, float]:
    """Return the medians of network and twin in milliseconds, and the median ratio of rounds."""
    for module in (network, twin):
        module.requires_grad_(weights)
        step(module, x, weights)
    pairs = []
    for index in range(rounds):
        order = (network, twin) if index % 2 else (twin, network)
        took = {id(m): seconds(lambda m=m: step(m, x, weights)) for m in order}  # type: ignore[misc]
        pairs.append((took[id(network)], took[id(twin)]))
    medians = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
    return medians[0], medians[1], statistics.median(b / a for a, b in pairs)


def peak_of_child(name: str, which: str, batch: int) -> float:
    """Return by how many MiB a few passes raise the peak memory of a new process."""
    command = [sys.executable, __file__, "--child", name, which, "--batch", str(batch)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout)


def resident_peak() -> float:
    """Return the peak memory of this process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def child(name: str, which: str, batch: int) -> None:
    """Print the rise of the peak for the network or its twin."""
    torch.set_num_threads(1)
    network = make(name)
    chosen = onnxfit.to_torch(to_onnx(network, torch.randn(2, *SHAPE)))
    chosen = chosen if which == "twin" else network
    step(chosen, torch.randn(1, *SHAPE), True)
    x = torch.randn(batch, *SHAPE)
    before = resident_peak()
    for _ in range(3):
        step(chosen, x, True)
    print(resident_peak() - before)


def resnet50() -> onnx.ModelProto:
    """Write a ResNet-50 with random weights: 161 initializers, 25.5 million numbers."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []

    def tensor(name: str, *shape: int, ones: bool = False) -> str:
        values = np.ones(shape) if ones else rng.normal(0, 0.05, shape)
        tensors.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(x: str, before: int, after: int, size: int, stride: int, relu: bool = True) -> str:
        y = f"v{len(nodes)}"
        pad = size // 2
        weight = tensor(f"{y}.weight", after, before, size, size)
        attributes: Any = {"pads": [pad] * 4, "strides": [stride] * 2, "kernel_shape": [size] * 2}
        nodes.append(make_node("Conv", [x, weight], [f"{y}/c"], **attributes))
        norm = [tensor(f"{y}.{n}", after, ones=True) for n in ("scale", "bias", "mean", "var")]
        out = f"{y}/n" if relu else y
        nodes.append(make_node("BatchNormalization", [f"{y}/c", *norm], [out]))
        if relu:
            nodes.append(make_node("Relu", [out], [y]))
        return y

    x = conv("x", 3, 64, 7, 2)
    nodes.append(
        make_node("MaxPool", [x], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    )
    x, channels = "pool", 64
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            stride = first if index == 0 else 1
            y = conv(conv(x, channels, width, 1, 1), width, width, 3, stride)
            y = conv(y, width, 4 * width, 1, 1, relu=False)
            if index == 0:
                x = conv(x, channels, 4 * width, 1, stride, relu=False)
            channels = 4 * width
            nodes.append(make_node("Add", [x, y], [f"a{len(nodes)}"]))
            x = f"r{len(nodes)}"
            nodes.append(make_node("Relu", [nodes[-1].output[0]], [x]))
    nodes.append(make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(make_node("Flatten", ["pooled"], ["flat"]))
    fc = [tensor("fc.weight", 1000, 2048), tensor("fc.bias", 1000)]
    nodes.append(make_node("Gemm", ["flat", *fc], ["logits"], transB=1))
    float32 = onnx.TensorProto.FLOAT
    graph = make_graph(
        nodes,
        "resnet50",
        [make_tensor_value_info("x", float32, ["N", 3, 224, 224])],
        [make_tensor_value_info("logits", float32, ["N", 1000])],
        tensors,
    )
    return make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        name, which = options.child
        child(name, which, options.batch)
        return
    torch.set_num_threads(options.threads)
    print("# The twin beside the network written by hand\n")
    print("\n".join([*provenance(options.threads), ""]))
    print(f"Forward and backward, batch {options.batch}, medians of {options.rounds} rounds:\n")
    print("| network | layout | gradients | by hand, ms | twin, ms | twin / by hand |")
    print("|---|---|---|---|---|---|")
    x = torch.randn(options.batch, *SHAPE)
    for name in NETWORKS:
        network = make(name)
        twin = onnxfit.to_torch(to_onnx(network, x[:2]))
        with torch.no_grad():
            assert torch.allclose(network(x), twin(x), rtol=1e-3, atol=1e-4)
        for layout in (torch.contiguous_format, torch.channels_last):
            for module in (network, twin):
                module.to(memory_format=layout)
            given = x.to(memory_format=layout)
            for weights in (False, True):
                a, b, share = ratio(network, twin, given, weights, options.rounds)
                label = str(layout).removeprefix("torch.").removesuffix("_format")
                what = "input and weights" if weights else "input"
                print(f"| {name} | {label} | {what} | {a:.1f} | {b:.1f} | {share:.3f} |")
    print("\nRise of the peak memory by forward and backward, batch 256, MiB:\n")
    print("| network | by hand | twin | twin / by hand |")
    print("|---|---|---|---|")
    for name in NETWORKS:
        hand, own = (peak_of_child(name, which, 256) for which in ("network", "twin"))
        print(f"| {name} | {hand:.0f} | {own:.0f} | {own / hand:.2f} |")
    model = resnet50()
    onnxfit.to_torch(model)
    took = [seconds(lambda: onnxfit.to_torch(model)) for _ in range(options.rounds)]
    print(
        f"\nBuilding the twin of a ResNet-50 ({model.ByteSize() / 2**20:.0f} MiB): "
        f"{statistics.median(took):.2f} s, at most {max(took):.2f} s."
    )


if __name__ == "__main__":
    main()
