"""What does a fine-tuning bring, beside the loop that one writes in ten minutes?

The paper's MNIST network, MNIST test images 0–2999 to train on, 3000–3999 to choose by, 4000–4999
to judge by: clean accuracy, and the worst case of the suite ``quick`` on the file in ONNX Runtime.
The plain loop trains the network written by hand: PGD with as many steps, Adam at 0.001, its
learning rate falling as a cosine, 50 epochs, the last weights.

The second table is the time of an epoch, both without augmentation, in turns in one process.

    python benchmarks/finetune_lenet.py [--eps 0.1 0.2] [--rounds 5] [--write]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from environment import provenance
from images import MNIST
from published import publish
from torch import Tensor, nn
from torch.nn import functional
from trained_networks import lenet

import onnxfit
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.trainer import Trainer
from onnxfit.finetuning.weights import choose_weights

RESULT = Path(__file__).parent / "results" / "finetune_lenet.md"
MODEL = lenet("baseline")
STEPS, EPOCHS, BATCH = 7, 50, 100
# The largest drop of clean accuracy, by the radius.
BUDGETS = {0.1: 0.004, 0.2: 0.01}

Arrays = tuple[Any, Any]


class LeNet(nn.Module):
    """The paper's LeNetLike, from pixels to logits, with the weights of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(320, 120), nn.Linear(120, 90), nn.Linear(90, 10)
        graph = onnx.load(MODEL.path).graph
        self.load_state_dict(
            {
                t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy())
                for t in graph.initializer
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits."""
        x = (x - MODEL.mean[0]) / MODEL.std[0]
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2)).flatten(1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class PlainLoop:
    """Adversarial training as one writes it in ten minutes."""

    def __init__(self, x: Tensor, y: Tensor, eps: float) -> None:
        torch.manual_seed(0)
        self.network, self.eps, self.x, self.y = LeNet(), eps, x, y
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def run_epoch(self) -> None:
        """Train on all samples once."""
        order = torch.randperm(len(self.x))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            x, y = self.x[rows], self.y[rows]
            points = x + torch.empty_like(x).uniform_(-self.eps, self.eps)
            points = points.clamp(0, 1)
            for _ in range(STEPS):
                points.requires_grad_()
                loss = functional.cross_entropy(self.network(points), y)
                (gradient,) = torch.autograd.grad(loss, points)
                points = points.detach() + 2.5 * self.eps / STEPS * gradient.sign()
                points = torch.min(torch.max(points, x - self.eps), x + self.eps).clamp(0, 1)
            self.optimizer.zero_grad()
            functional.cross_entropy(self.network(points), y).backward()
            self.optimizer.step()

    def run(self) -> onnx.ModelProto:
        """Train, and return the file with the weights."""
        for epoch in range(EPOCHS):
            for group in self.optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
            self.run_epoch()
        model = onnx.load(MODEL.path)
        state = self.network.state_dict()
        for tensor in model.graph.initializer:
            array = state[tensor.name].numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return model


def images() -> list[Arrays]:
    """Return the images to train on, to choose by and to judge by."""
    with np.load(MNIST) as data:
        x, y = data["x"], data["y"]
    return [(x[a:b], y[a:b]) for a, b in ((0, 3000), (3000, 4000), (4000, 5000))]


def tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """Return images within 0 and 1 and their classes."""
    x, y = arrays
    return torch.from_numpy(x).float() / 255, torch.from_numpy(y).long()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work gives, and the seconds of the processor."""
    start = time.process_time()
    return work(), time.process_time() - start


def rows_of(eps: float, seeds: tuple[int, ...]) -> list[str]:
    """Train in both ways and judge; return the rows of the table."""
    train, validation, test = images()

    def tuned(seed: int) -> onnx.ModelProto:
        found = onnxfit.finetune(
            MODEL.path,
            train,
            validation,
            eps=eps,
            max_drop=BUDGETS[eps],
            **MODEL.normalisation,
            seed=seed,
        )
        assert found.model is not None
        return found.model

    ways: list[tuple[str, Callable[[], onnx.ModelProto]]] = [
        ("plain loop", lambda: PlainLoop(*tensors(train), eps).run())
    ]
    ways += [(f"onnxfit finetune, seed {seed}", partial(tuned, seed)) for seed in seeds]
    rows = []
    for name, work in ways:
        model, seconds = timed(work)
        found = onnxfit.verify(
            model,
            test,
            baseline=MODEL.path,
            suite="quick",
            eps=eps,
            **MODEL.normalisation,
        ).document
        cells = [f"{eps:g}", name]
        for side in (found["baseline"], found):
            cells += [f"{side['clean']['accuracy']:.1%}"]
            low, high = side["worst_case"]["ci95"]
            cells += [f"{side['worst_case']['robust_accuracy']:.1%} ({low:.1%} to {high:.1%})"]
        cells += [f"{100 * found['difference']['clean_accuracy']:+.1f}", f"{seconds:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def epoch_row(rounds: int) -> str:
    """Time epochs in turns; return the row of the table."""
    x, y = tensors(images()[0])
    plain = PlainLoop(x, y, 0.1)
    settings = Settings(eps=0.1, batch_size=BATCH, steps=STEPS, epochs=10 * rounds)
    target = MODEL.open()
    choose_weights(target, statistics=False)
    trainer = Trainer(target.twin, x, y, settings, (0.0, 1.0), ())
    times: dict[str, list[float]] = {"plain": [], "onnxfit": []}
    for index in range(rounds):
        turns: list[tuple[str, Callable[[], Any]]]
        turns = [("plain", plain.run_epoch), ("onnxfit", trainer.run_epoch)]
        for name, work in turns if index % 2 else turns[::-1]:
            times[name].append(timed(work)[1])
    medians = [statistics.median(times[name]) for name in ("plain", "onnxfit")]
    ratio = statistics.median(b / a for a, b in zip(times["plain"], times["onnxfit"], strict=True))
    return f"| {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.2f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.2], choices=BUDGETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = ["# A fine-tuning beside a plain loop", "", *provenance(options.threads), ""]
    lines += [
        "The paper's MNIST network; 3,000 images to train on, 1,000 to choose by, 1,000 others to "
        "judge by; ℓ∞, pixels; worst case of the suite `quick` with its 95 % interval; CPU time.",
        "",
        "| eps | trained by | clean before | worst case before | clean | worst case | clean, "
        "points | seconds |",
        "|---" * 8 + "|",
    ]
    print("\n".join(lines), flush=True)
    for eps in options.eps:
        lines += rows_of(eps, tuple(options.seeds))
    lines += [
        "",
        f"An epoch with batches of {BATCH} and {STEPS} steps of the search, without augmentation, "
        f"in turns, medians of {options.rounds} rounds:",
        "",
        "| plain loop, network by hand, s | onnxfit, twin, s | onnxfit / plain |",
        "|---|---|---|",
        epoch_row(options.rounds),
    ]
    print("\n".join(lines[-5:]))
    if options.write:
        publish(RESULT, lines)


if __name__ == "__main__":
    main()
