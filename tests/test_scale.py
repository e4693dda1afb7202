"""Large files: time in proportion to the graph, memory bounded by the graph and not its weights.

benchmarks/retrofit_scale.py measures the same at leisure; the bounds here are for a busy machine.
"""

import runpy
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto

import onnxfit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    """The functions of the benchmark."""
    pytest.importorskip("onnx_graphsurgeon")
    return runpy.run_path(str(ROOT / "benchmarks/retrofit_scale.py"))


@pytest.fixture(scope="module")
def long_model(benchmark: dict[str, Any]) -> ModelProto:
    """A graph of 20,000 nodes, a quarter of them Relu."""
    model: ModelProto = benchmark["long_model"](20_000)
    assert len(model.graph.node) == 20_000
    return model


def test_a_graph_of_20000_nodes_takes_little_time(
    benchmark: dict[str, Any], long_model: ModelProto
) -> None:
    """Retrofit takes well below a second of CPU time, and less than half of graphsurgeon's."""
    gs, seconds = benchmark["gs"], benchmark["cpu_seconds"]
    ours = min(seconds(lambda: onnxfit.retrofit(long_model, jump=0.5)) for _ in range(4))
    theirs = min(seconds(lambda: gs.export_onnx(gs.import_onnx(long_model))) for _ in range(2))
    assert ours < 1.0
    assert ours < theirs / 2


def test_time_grows_with_the_graph_alone(benchmark: dict[str, Any], long_model: ModelProto) -> None:
    """Four times the nodes take at most eight times as long, for every step and lowering."""
    seconds, short_model = benchmark["cpu_seconds"], benchmark["long_model"](5_000)
    for lowering in ("function", "standard"):
        times = []
        for model in (short_model, long_model):
            hardened = onnxfit.retrofit(model, jump=0.5, lowering=lowering)
            times.append(
                min(
                    seconds(
                        lambda m=model, how=lowering: onnxfit.retrofit(m, jump=0.5, lowering=how)
                    )
                    + seconds(lambda m=hardened: onnxfit.restore(m))
                    for _ in range(2)
                )
            )
        short, long = times
        assert long < 8 * short


def test_weights_of_3_gb_are_never_loaded(benchmark: dict[str, Any], tmp_path: Path) -> None:
    """The command line hardens a model of 3 GiB in less than 300 MiB of memory."""
    model, output = benchmark["heavy_model"](tmp_path), tmp_path / "heavy.jump.onnx"
    assert (tmp_path / "heavy.bin").stat().st_size == 3 * 2**30
    peak, _ = benchmark["retrofit_program"](model, output)
    assert peak < 300
    assert {0.5} == {site.jump for site in onnxfit.find_sites(output)}
    assert len(onnxfit.find_sites(model)) == len(onnxfit.find_sites(output))
