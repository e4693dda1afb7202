"""Harden a trained network at several jumps and run it with and without the custom-op library.

One table: the clean accuracy on held-out digits, how far the two forms agree, what they cost.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import onnxfit
from onnxfit.errors import NativeLibraryError

MODELS = Path(__file__).resolve().parent.parent / "models"
NETWORKS = ("digits_cnn", "digits_cnn_pgd")
JUMPS = (0.0, 0.25, 0.5, 1.0)
ROUNDS = 31

Array = NDArray[np.float32]


def options() -> onnxruntime.SessionOptions:
    """Keep to one thread: the steadiest clock."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return settings


def run(session: onnxruntime.InferenceSession, images: Array) -> Array:
    """Compute the logits of a batch."""
    logits: Array = session.run(None, {session.get_inputs()[0].name: images})[0]
    return logits


def seconds(sessions: list[onnxruntime.InferenceSession], images: Array) -> list[float]:
    """Return the median time of a batch in each session, measured in turns."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            run(session, images)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    """Print the table."""
    test = np.load(MODELS / "digits_test.npz")
    images, labels = test["x"], test["y"]
    table = Table(title=f"{len(labels)} held-out digits, CPU, 1 thread, batch {len(labels)}")
    for heading in ("network", "jump", "sites", "clean accuracy", "same logits, bit for bit"):
        table.add_column(heading)
    table.add_column("latency / original\nwith library")
    table.add_column("latency / original\nwithout")
    for network in NETWORKS:
        path = MODELS / f"{network}.onnx"
        original = onnxruntime.InferenceSession(path, options(), ["CPUExecutionProvider"])
        accuracy = np.mean(run(original, images).argmax(1) == labels)
        table.add_row(network, "none", "–", f"{accuracy:.2%}", "–", "1.00", "1.00")
        for jump in JUMPS:
            hard = onnxfit.retrofit(path, jump=jump)
            sites = onnxfit.find_sites(hard)
            fast = onnxfit.session(hard, options())
            # ONNX Runtime alone: it inlines the function that the file carries.
            plain = onnxruntime.InferenceSession(
                hard.SerializeToString(), options(), ["CPUExecutionProvider"]
            )
            with_library, without = run(fast, images), run(plain, images)
            same = np.mean((with_library == without).all(axis=1))
            accuracy = np.mean(with_library.argmax(1) == labels)
            base, *others = seconds([original, fast, plain], images)
            ratios = (f"{taken / base:.2f}" for taken in others)
            table.add_row(
                "", f"{jump:g}", str(len(sites)), f"{accuracy:.2%}", f"{same:.0%}", *ratios
            )
        table.add_section()
    Console(width=110).print(table)
    try:
        Console().print(f"Custom-op library: {onnxfit.library_path().name}", highlight=False)
    except NativeLibraryError as error:
        Console().print(f"Both forms ran the function body: {error}", highlight=False)


if __name__ == "__main__":
    main()
