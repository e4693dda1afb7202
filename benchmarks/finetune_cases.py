"""The networks, images and ways of training that ``finetune.py`` compares.

Networks of others come from a folder beside the repository, or the one that ONNXFIT_SHARED names;
the project's own from ``models/``.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from paper_cases import CIFAR10, DERIVED, MODELS, SHARED, Samples

from onnxfit.data import Dataset, from_arrays, sha256_of
from onnxfit.verification.target import Target

# The weights of each method that are tried on the first network; validation images choose. That of
# J-SIGR follows from that of the Jacobian, so that ‖J‖² counts the same: one term has half of it.
TRIED: dict[str, tuple[float, ...]] = {
    "adversarial": (1.0,),
    "trades": (6.0,),
    "jacobian": (0.01, 0.1),
    "sensitivity": (0.1, 1.0),
    "j-sigr": (),
}
# The size of universal perturbations in Co et al. (2021, arXiv 2104.10459).
UNIVERSAL = 10 / 255
MAX_DROP = 0.01

Arrays = tuple[NDArray[Any], NDArray[np.int64]]


class Split(NamedTuple):
    """Images and labels to train on, to choose by and to judge by."""

    train: Arrays
    validation: Arrays
    test: Arrays


@dataclass(frozen=True, kw_only=True)
class Model:
    """A file, and how it takes pixels from 0 to 1.

    Attributes:
        path: The file.
        mean: Of the normalisation.
        std: The same.
    """

    path: Path
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def open(self) -> Target:
        """Open the file."""
        return Target(self.path, mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is trained and judged with.

    Attributes:
        key: Its name in results.
        title: Its name in tables.
        note: What is to be known of it, in sentences.
        model: Its file.
        stranger: Another network for the same images, which adversarial ones are made on too.
        images: Reads them.
        eps: For linf, in pixels from 0 to 1.
        universal: The sizes of universal perturbations.
        epochs: Of a training.
        learning_rate: Of a training at its height.
    """

    key: str
    title: str
    note: str
    model: Model
    stranger: Model
    images: Callable[[], Split]
    eps: float
    universal: tuple[float, ...]
    epochs: int
    learning_rate: float = 3e-3

    @cached_property
    def split(self) -> Split:
        """The images."""
        return self.images()

    def data(self, part: str) -> Dataset:
        """Return the images of a part: ``train``, ``validation`` or ``test``."""
        return from_arrays(*getattr(self.split, part))

    @property
    def normalised(self) -> dict[str, Any]:
        """How the network takes pixels, for the package's functions."""
        return {"mean": self.model.mean, "std": self.model.std}

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the file and of each part of the images."""
        return {
            "model": sha256_of(self.model.path),
            **{part: self.data(part).sha256 for part in Split._fields},
        }


@dataclass(frozen=True)
class Way:
    """A way to treat a network.

    Attributes:
        method: Of the training; empty for none.
        weight: Of the method.
        jump: That all sites get, before the training if there is one; None for none.
    """

    method: str = ""
    weight: float = 0.0
    jump: float | None = None

    def __str__(self) -> str:
        words = [f"{self.method} {self.weight:g}"] if self.method else []
        words += [] if self.jump is None else [f"jump {self.jump:g}"]
        return ", ".join(words) or "nothing"


def _mnist() -> Split:
    path = SHARED / "data/mnist_0_4999.npz"
    parts = Samples(path, 0, 3000), Samples(path, 3000, 1000), Samples(path, 4000, 500)
    return Split(*(part.read() for part in parts))


def _digits() -> Split:
    sys.path.insert(0, str(MODELS))
    from digits import split

    return Split(*split())


def _cifar10() -> Split:
    train = Samples(SHARED / "data/cifar10_jpeg_train2000.npz", 0, 2000).read()
    test = Samples(SHARED / "data/cifar10_exact_549.npz", 0, 549).read()
    x, y = Samples(SHARED / "data/cifar10_jpeg_4000.npz", 0, 4000).read()
    others = np.flatnonzero(~copies(x, test[0]))[:1000]
    return Split(train, (x[others], y[others]), test)


def copies(x: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which images are among others but for their compression, N booleans.

    Means of 4×4 pixels of an image and its JPEG differ by at most 6 levels, root mean square, and
    by 29 or more from those of another one, in the images that are used here.

    Args:
        x: N×C×32×32, from 0 to 255.
        others: M×C×32×32.
    """
    coarse, known = (
        images.reshape(*images.shape[:2], 8, 4, 8, 4).mean((3, 5)).reshape(len(images), -1)
        for images in (x, others)
    )
    nearest = np.array([np.square(known - image).mean(1).min() for image in coarse])
    near: NDArray[np.bool_] = np.sqrt(nearest) < 15
    return near


_MNIST_INPUT: dict[str, Any] = {"mean": (0.1307,), "std": (0.3081,)}
_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)

NETWORKS = (
    Network(
        key="lenet-mnist",
        title="LeNetLike, MNIST",
        note="The paper's network. MNIST test images 0–2999 train, 3000–3999 choose, 4000–4499 "
        "judge. The stranger is the paper's other LeNetLike, trained by distillation.",
        model=Model(path=DERIVED / "jumprelu_lenet_baseline.onnx", **_MNIST_INPUT),
        stranger=Model(path=DERIVED / "jumprelu_lenet_distillation.onnx", **_MNIST_INPUT),
        images=_mnist,
        eps=0.1,
        universal=(UNIVERSAL, 0.1, 0.2),
        epochs=15,
    ),
    Network(
        key="cnn-digits",
        title="DigitsCNN, digits",
        note="The 898 images that the network was trained on train, `digits_val` chooses, "
        "`digits_test` judges. The stranger is `digits_lenet`.",
        model=Model(path=MODELS / "digits_cnn.onnx"),
        stranger=Model(path=MODELS / "digits_lenet.onnx"),
        images=_digits,
        eps=0.1,
        universal=(UNIVERSAL, 0.1),
        epochs=15,
    ),
    Network(
        key="resnet2b-cifar10",
        title="ResNet-2B, CIFAR-10",
        note="It was trained adversarially before; with the usual learning rate, ten times this "
        "one, no check of a further adversarial training kept the budget. 2,000 training images "
        "that went through JPEG train, 1,000 test images that went through JPEG choose, 549 exact "
        "test images judge; none of these is a copy of one of those. The stranger is the JumpReLU "
        "paper's ResNet-20.",
        model=Model(
            path=CIFAR10 / "resnet_2b.onnx", mean=_CIFAR10_MEAN, std=(0.2471, 0.2435, 0.2616)
        ),
        stranger=Model(
            path=DERIVED / "jumprelu_resnet20_baseline_bn.onnx",
            mean=_CIFAR10_MEAN,
            std=(0.2023, 0.1994, 0.201),
        ),
        images=_cifar10,
        eps=2 / 255,
        universal=(UNIVERSAL,),
        epochs=10,
        learning_rate=3e-4,
    ),
)
