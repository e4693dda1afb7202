"""A model under attack: its twin gives gradients, the file in ONNX Runtime gives the verdict."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit import checks, passes
from onnxfit.data import Dataset, sha256_of
from onnxfit.deployed import Deployed, are_probabilities
from onnxfit.errors import ModelError, NativeLibraryError, ParityError
from onnxfit.external_data import external_files
from onnxfit.files import folder_of, read_with_digest
from onnxfit.hardening import own, retrofit, with_jumps
from onnxfit.record import FINETUNING, provenance, source_of
from onnxfit.restoring import restore
from onnxfit.sites import find_sites
from onnxfit.surrogate_networks import surrogate_networks
from onnxfit.twin.classifier import Classifier
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.twin.parity import Parity
from onnxfit.twin.preprocessing import Preprocessed
from onnxfit.verification.deployed_classifier import DeployedClassifier

# Ties and values within rounding of a jump may make twin and file name different classes.
LEAST_AGREEMENT = 0.9


class Target:
    """A model under attack.

    Args:
        model: A model or its path.
        base_dir: Folder of the external data; by default that of the path.
        mean: Subtracted from samples before the model, for all channels or each.
        std: Divides after that.
        device: Where the twin computes; on ``cuda`` the session prefers CUDA too.

    Attributes:
        path: As it was given, or None.
        folder: Of its external data, or None.
        device: Where the twin computes.
        sha256: Of the file, or of the serialised model.
        model: The model.
        twin: From samples, N×… in the data's units, to logits, N×C; with gradients.
        deployed: The same in ONNX Runtime, without gradients.
        classifier: The part of the twin after the normalisation. Every site is a JumpReLU in it,
            those that are not hardened with jump 0.

    Raises:
        ModelError: The model cannot be read or run, or is no classifier of one input.
        NativeLibraryError: There is no CUDA device, or ONNX Runtime cannot use it.
        UnsupportedOperator: The twin cannot compute a node.
        ValueError: The device is none, or mean and std are not what :class:`Preprocessed` takes.
    """

    def __init__(
        self,
        model: ModelProto | str | Path,
        base_dir: str | Path | None = None,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        device: str | torch.device = "cpu",
    ) -> None:
        self.path = None if isinstance(model, ModelProto) else Path(model)
        self.folder = folder_of(model, base_dir)
        self.model, self.sha256 = read_with_digest(model)
        checks.numbers("mean", mean)
        checks.numbers("std", std)
        checks.device(device)
        self.mean, self.std = tuple(mean), tuple(std)
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise NativeLibraryError("PyTorch sees no CUDA device here")
        self.classifier = self._made_of(self.model)
        if self.classifier.dtype is torch.bfloat16:
            raise ModelError(
                "the model's input is bfloat16, which ONNX Runtime does not take from Python, so "
                "that nothing can be replayed on the file"
            )
        self._cpu_preprocessing = Preprocessed(self.classifier, self.mean, self.std)
        self.twin = Preprocessed(self.classifier, self.mean, self.std).to(device)

    def _made_of(self, model: ModelProto, *, before_probabilities: bool = True) -> Classifier:
        """Return the twin of a form of the model, or of a part of it, which gives no logits."""
        # A Relu is a JumpReLU of jump 0, and as one it can have another backward pass.
        attackable = _with_every_site(model, self.folder)
        made = Classifier(attackable, self.folder, before_probabilities=before_probabilities)
        return made.requires_grad_(False).eval()

    @cached_property
    def networks(self) -> dict[str, torch.nn.Module]:
        """What attacks follow beside the twin, by name: :mod:`onnxfit.surrogate_networks`."""
        made = surrogate_networks(self.model, self.folder, self._made_of)
        ready = {name: Preprocessed(made[name], self.mean, self.std) for name in made}
        return {name: network.eval().to(self.device) for name, network in ready.items()}

    @cached_property
    def deployed(self) -> DeployedClassifier:
        """The file in ONNX Runtime."""
        return self.classified_by(self.session_of(self.model if self.path is None else self.path))

    def session_of(self, model: ModelProto | str | Path, constants: Sequence[str] = ()) -> Deployed:
        """Open a form of the model in ONNX Runtime, where this one would run.

        Raises:
            ModelError, NativeLibraryError: As :class:`Deployed`.
        """
        on_cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = on_cuda if self.device.type == "cuda" else None
        return Deployed(model, self.folder, providers, constants)

    def classified_by(self, session: Deployed) -> DeployedClassifier:
        """Make a classifier of a session, which is given samples as this model's is."""
        return DeployedClassifier(self.classifier, self._cpu_preprocessing, session)

    @property
    def jumps(self) -> dict[str, float | list[float] | None]:
        """The jump of each hardened site by its name; None where it is given at run time."""
        found = {site.name: site.jump for site in find_sites(self.model) if site.jump is not None}
        return {name: _listed(jump) for name, jump in found.items()}

    def parity(self, x: torch.Tensor | NDArray[np.float32]) -> Parity:
        """Compare twin and file on samples in the data's units.

        Raises:
            ParityError: They disagree.
        """
        samples = torch.as_tensor(x).cpu()
        found = self.classifier.require_parity(self._cpu_preprocessing.normalised(samples))
        assert found is not None  # noqa: S101 - bfloat16 was refused
        # That was the model with a JumpReLU at every site; this is the file as it will ship.
        with torch.no_grad():
            classes = self.twin(samples.to(self.device)).argmax(1).cpu().numpy()
        agreement = float((classes == self.predictions(samples)).mean())
        if agreement < LEAST_AGREEMENT:
            raise ParityError(
                f"the twin and the file name the same class for only {agreement:.1%} of "
                f"{len(samples)} samples"
            )
        return found

    @property
    def has_jumps(self) -> bool:
        """Whether the twin holds a JumpReLU, also one of jump 0."""
        return bool(jump_relus(self.twin))

    def passes_gradients(self, x: torch.Tensor) -> bool:
        """Say whether the twin's logits depend on samples as far as gradients know."""
        leaf = x[:1].to(self.device, copy=True).requires_grad_()
        return bool(self.twin(leaf).requires_grad)

    @property
    def files(self) -> list[Path]:
        """Everything that the model lies in."""
        external = [] if self.folder is None else external_files(self.model, self.folder)
        return [*([] if self.path is None else [self.path]), *external]

    @cached_property
    def external_data(self) -> dict[str, str]:
        """The SHA-256 of each external file of weights, by its name."""
        if self.folder is None:
            return {}
        files = external_files(self.model, self.folder)
        return {file.relative_to(self.folder).as_posix(): sha256_of(file) for file in files}

    def followed(self, network: str | None, x: torch.Tensor) -> torch.nn.Module | None:
        """Return the twin, or the surrogate network of a name; None where no gradient passes."""
        if network is not None:
            return self.networks.get(network)
        return self.twin if self.passes_gradients(x) else None

    def gives_probabilities(self, x: torch.Tensor | NDArray[np.float32]) -> bool:
        """Say whether what should be logits looks like probabilities: from 0 to 1, of sum 1."""
        with torch.no_grad():
            logits = self.twin(torch.as_tensor(x).to(self.device))
        return are_probabilities(logits.cpu().numpy())

    def record(self) -> dict[str, Any]:
        """Return what reports say of the model."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "external_data": self.external_data,
            "sites": len(find_sites(self.model)),
            "jumps": self.jumps,
            "passes": self.passes,
        }

    @property
    def passes(self) -> list[str]:
        """What was put around the network, by the metadata entries that tell of it."""
        return passes.applied(self.model)

    @property
    def is_hardened(self) -> bool:
        """Whether any jump is not 0."""
        return any(jump is None or np.any(jump) for jump in self.jumps.values())

    @cached_property
    def _plain(self) -> ModelProto:
        """What the model was before all retrofits, or with jumps of 0 if that is lost."""
        bare, _ = own(self.model)
        passes.take_back(bare)
        if not self.jumps:
            return bare
        try:
            return restore(bare, self.folder)
        except ModelError:
            return retrofit(bare, 0.0, base_dir=self.folder)

    def was_made_of(self, other: "Target") -> bool:
        """Say whether another model is what this one was before all retrofits."""
        if not self.is_hardened and not self.passes:
            return False
        tuned = provenance(self.model).get(FINETUNING)
        if isinstance(tuned, dict) and tuned.get("hardened"):
            # Its weights are others as well.
            return False
        return other.sha256 in (source_of(self.model), read_with_digest(self._plain)[1])

    def warnings(self, side: str, x: torch.Tensor | NDArray[np.float32]) -> list[str]:
        """Return what a reader should know of the logits, in sentences; ``x`` are samples."""
        if kind := self.classifier.probabilities:
            return [f"The {side} ends in a {kind}: the attacks use the logits before it."]
        if self.gives_probabilities(x):
            return [
                f"What the {side} gives looks like probabilities; the attacks take them as logits."
            ]
        return []

    def unhardened(self) -> "Target":
        """Return what the model was before all retrofits, or with jumps of 0 if that is lost."""
        return Target(self._plain, self.folder, mean=self.mean, std=self.std, device=self.device)

    def predictions(self, x: torch.Tensor | NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the classes that the file names for samples, N; -1 where a logit is NaN."""
        return self.deployed.predictions(x)


def classes_of(target: Target, data: Dataset) -> int:
    """Return how many classes a model tells apart, and check that they are those of the labels.

    Raises:
        DataError: A label is none of them.
        ModelError: The model gives no logits of at least two classes.
    """
    x = next(data.batches(1)).x
    with torch.no_grad():
        classes = target.twin(torch.from_numpy(x).to(target.device)).shape[1]
    if classes < 2:
        raise ModelError(
            "the model gives one number per sample, not the logits of at least two classes"
        )
    data.check_classes(classes)
    return int(classes)


def _with_every_site(model: ModelProto, folder: Path | None) -> ModelProto:
    """Return a model that computes the same with each activation that is a site a JumpReLU."""
    plain = [site.name for site in find_sites(model) if site.jump is None]
    if not plain:
        return model
    return with_jumps(model, jumps=dict.fromkeys(plain, 0.0), base_dir=folder)


def _listed(jump: object) -> float | list[float] | None:
    if isinstance(jump, tuple):
        return [float(value) for value in jump] or None
    return float(jump)  # type: ignore[arg-type]
