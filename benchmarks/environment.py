"""How and where a benchmark runs: its command line, the versions, the processor."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch
from onnx import ModelProto

import onnxfit
from onnxfit.runtime import quiet_options

# The code that a benchmark of latency measures, and itself.
MEASURED = ("onnxfit", "custom_ops", "benchmarks")


def command_line() -> str:
    """Return the command that started this benchmark, from the top of the repository."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def provenance(threads: int) -> list[str]:
    """Return the lines that say how and where a benchmark of PyTorch ran."""
    return [
        f"`{command_line()}`",
        f"on {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {threads} thread(s).",
    ]


def processor() -> str:
    """Return the name of the CPU, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def clean_commit(*code: str) -> str:
    """Return the commit whose code measures: the last one that changed it.

    Args:
        code: The folders that it lies in, from the top of the repository; results are none.

    Raises:
        SystemExit: The code differs from it.
    """
    git = ["git", "-C", str(Path(__file__).parent.parent)]
    paths = ["--", *code, ":!benchmarks/results"]
    command = [*git, "status", "--porcelain", *paths]
    if changed := subprocess.run(command, capture_output=True, text=True, check=True).stdout:
        raise SystemExit(f"commit these first, so that figures can name their code:\n{changed}")
    command = [*git, "log", "-1", "--format=%H", *paths]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def session_in_turns(model: ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Start a session on the CPU that is measured in turns with others.

    Its threads are its own and do not spin while another one runs: they would take its cores.
    """
    options = quiet_options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxfit.session(model, options)
