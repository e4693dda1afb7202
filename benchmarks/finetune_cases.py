"""The networks, images and ways of training that ``finetune.py`` compares."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from images import (
    CIFAR10_EXACT,
    CIFAR10_JPEG,
    CIFAR10_TRAIN,
    MNIST,
    Samples,
)
from numpy.typing import NDArray
from trained_networks import MODELS, RESNET20, RESNET_2B, Model, digits, lenet

from onnxfit.data import Dataset, from_arrays, sha256_of

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
        return self.model.normalisation

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
    parts = Samples(MNIST, 0, 3000), Samples(MNIST, 3000, 1000), Samples(MNIST, 4000, 500)
    return Split(*(part.read() for part in parts))


def _digits() -> Split:
    sys.path.insert(0, str(MODELS))
    from digits import split

    return Split(*split())


def _cifar10() -> Split:
    train = Samples(CIFAR10_TRAIN, 0, 2000).read()
    test = Samples(CIFAR10_EXACT, 0, 549).read()
    x, y = Samples(CIFAR10_JPEG, 0, 4000).read()
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


NETWORKS = (
    Network(
        key="lenet-mnist",
        title="LeNetLike, MNIST",
        note="The paper's network. MNIST test images 0–2999 train, 3000–3999 choose, 4000–4499 "
        "judge. The stranger is the paper's other LeNetLike, trained by distillation.",
        model=lenet("baseline"),
        stranger=lenet("distillation"),
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
        model=digits("cnn"),
        stranger=digits("lenet"),
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
        model=RESNET_2B,
        stranger=RESNET20,
        images=_cifar10,
        eps=2 / 255,
        universal=(UNIVERSAL,),
        epochs=10,
        learning_rate=3e-4,
    ),
)
