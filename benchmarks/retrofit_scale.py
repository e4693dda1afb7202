"""Does retrofit stay cheap on large files? CPU time on a long graph, memory on a heavy one.

The long graph has 20,000 nodes, a quarter of them Relu, and is retrofitted in memory beside
onnx-graphsurgeon's import and export of the same graph, in turns. The heavy model has 3 GB of
weights in an external file, and ``onnxfit retrofit`` runs on it as a program of its own, once with
the output beside the model and once in another folder of the same file system.

    python benchmarks/retrofit_scale.py [--rounds 9] [--folder DIR]
"""

import argparse
import gc
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

import onnxfit

# Linux hands the peak of ``getrusage`` down from parent to child; VmHWM is the program's own.
CHILD = """
import pathlib, re, resource, sys
from onnxfit.cli import main
sys.argv[0] = "onnxfit"
try:
    main()
finally:
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 2**10
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(peak, file=sys.stderr)
"""


def long_model(nodes: int) -> ModelProto:
    """Make residual blocks of a convolution, a normalisation, an addition and a Relu."""
    blocks = nodes // 4
    weights = {"w": (4, 4, 1, 1), "s": (4,), "b": (4,), "m": (4,), "v": (4,)}
    graph_nodes, initializers = [], []
    rng = np.random.default_rng(0)
    before = "x"
    for i in range(blocks):
        for key, shape in weights.items():
            array = rng.random(shape, np.float32)
            initializers.append(onnx.numpy_helper.from_array(array, f"block{i}.{key}"))
        normal = [f"block{i}.conv", *(f"block{i}.{key}" for key in "sbmv")]
        graph_nodes += [
            make_node("Conv", [before, f"block{i}.w"], [f"block{i}.conv"]),
            make_node("BatchNormalization", normal, [f"block{i}.norm"]),
            make_node("Add", [before, f"block{i}.norm"], [f"block{i}.sum"]),
            make_node("Relu", [f"block{i}.sum"], [f"block{i}.relu"]),
        ]
        before = f"block{i}.relu"
    x = make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])
    y = make_tensor_value_info(before, TensorProto.FLOAT, ["N", 4, 8, 8])
    graph = make_graph(graph_nodes, "long", [x], [y], initializers)
    return make_model(graph, ir_version=8, opset_imports=[make_opsetid("", 17)])


def heavy_model(folder: Path, layers: int = 48, width: int = 4096) -> Path:
    """Write dense layers whose weights are a hole in a sparse file: 3 GiB for 48 of 4096²."""
    size = width * width * 4
    nodes, initializers = [], []
    before = "x"
    for i in range(layers):
        weight = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[width, width])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "heavy.bin", "offset": i * size, "length": size}.items():
            weight.external_data.add(key=key, value=str(value))
        initializers.append(weight)
        nodes.append(make_node("MatMul", [before, f"w{i}"], [f"h{i}"]))
        nodes.append(make_node("Relu", [f"h{i}"], [f"y{i}"]))
        before = f"y{i}"
    x = make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])
    y = make_tensor_value_info(before, TensorProto.FLOAT, ["N", width])
    graph = make_graph(nodes, "heavy", [x], [y], initializers)
    model = make_model(graph, ir_version=8, opset_imports=[make_opsetid("", 17)])
    path = folder / "heavy.onnx"
    path.write_bytes(model.SerializeToString())
    with (folder / "heavy.bin").open("wb") as weights:
        weights.truncate(layers * size)
    return path


def cpu_seconds(act: Callable[[], object]) -> float:
    """Return the CPU time of a call, with no garbage of earlier ones in its way."""
    gc.collect()
    start = time.process_time()
    act()
    return time.process_time() - start


def compare_times(nodes: int, rounds: int) -> dict[str, list[float]]:
    """Measure retrofit, restore and graphsurgeon in turns."""
    model = long_model(nodes)
    hardened = onnxfit.retrofit(model, jump=0.5)
    content = model.SerializeToString()
    acts: dict[str, Callable[[], object]] = {
        "`onnx.load`": lambda: ModelProto.FromString(content),
        "`onnxfit.find_sites`": lambda: onnxfit.find_sites(model),
        "`onnxfit.retrofit`, function": lambda: onnxfit.retrofit(model, jump=0.5),
        "`onnxfit.retrofit`, standard": lambda: onnxfit.retrofit(
            model, jump=0.5, lowering="standard"
        ),
        "`onnxfit.retrofit` of a hardened model": lambda: onnxfit.retrofit(hardened, jump=1),
        "`onnxfit.restore`": lambda: onnxfit.restore(hardened),
        "graphsurgeon `import_onnx`, `export_onnx`": lambda: gs.export_onnx(gs.import_onnx(model)),
    }
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds):
        for name, act in acts.items():
            times[name].append(cpu_seconds(act))
    return times


def retrofit_program(model: Path, output: Path) -> tuple[float, float]:
    """Run ``onnxfit retrofit`` and return its peak memory in MiB and its duration in seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "retrofit", str(model), "--jump", "0.5", "-o", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"onnxfit retrofit ended with {done.returncode}: {done.stderr}")
    return float(done.stderr.split()[-1]), seconds


def how_it_came(source: Path, target: Path) -> str:
    """Say how an external file got to another folder."""
    if source.samefile(target):
        return "hard link"
    return f"copy, {target.stat().st_blocks * 512 / 2**20:.0f} MiB on the disk"


def main() -> None:
    """Measure, and print the tables of results/retrofit_scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the 3 GiB file is made, sparse")
    arguments = parser.parse_args()

    print(
        f"Python {platform.python_version()}, onnx {onnx.__version__}, onnx-graphsurgeon "
        f"{gs.__version__}, {os.cpu_count()} CPUs ({platform.machine()}); "
        f"{arguments.nodes} nodes, medians of {arguments.rounds} rounds in turns\n"
    )
    times = compare_times(arguments.nodes, arguments.rounds)
    unit = statistics.median(times["`onnxfit.retrofit`, function"])
    print("| | CPU seconds | smallest to largest | ratio |\n|---|---|---|---|")
    for name, measured in times.items():
        median = statistics.median(measured)
        print(
            f"| {name} | {median:.3f} | {min(measured):.3f} to {max(measured):.3f} "
            f"| {median / unit:.1f} |"
        )

    print("\n| 3 GiB of external weights, output | peak memory | seconds | weights |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, other = Path(folder, "source"), Path(folder, "other")
        source.mkdir()
        other.mkdir()
        model = heavy_model(source)
        for where, place in (("beside the model", source), ("in another folder", other)):
            peak, seconds = retrofit_program(model, place / "heavy.jump.onnx")
            came = how_it_came(source / "heavy.bin", place / "heavy.bin")
            came = "the same file" if place == source else came
            print(f"| {where} | {peak:.0f} MiB | {seconds:.2f} | {came} |")
        start = time.perf_counter()
        shutil.copyfile(source / "heavy.bin", other / "copy.bin")
        seconds = time.perf_counter() - start
        print(f"| for comparison: a copy of the weights alone | | {seconds:.2f} | copy |")


if __name__ == "__main__":
    main()
