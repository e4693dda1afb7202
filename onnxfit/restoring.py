"""A model given back as it was: what was put around it taken away, its jumps undone."""

from pathlib import Path

from onnx import ModelProto

from onnxfit import passes
from onnxfit.errors import ModelError
from onnxfit.hardening import own, take_back
from onnxfit.record import FINETUNING, NOT_HARDENED, is_hardened, provenance
from onnxfit.sites import scan


def restore(model: ModelProto | str | Path, base_dir: str | Path | None = None) -> ModelProto:
    """Return the model that was hardened, denoised or interpolated, equal to what it was before.

    Where weights were fine-tuned in between, it is the fine-tuned model.

    Args:
        model: A hardened, denoised or interpolated model, which stays untouched, or its path.
        base_dir: Folder of the external data, which is then checked to be there.

    Raises:
        ModelError: The model cannot be read or holds nothing to restore, or its weights were
            fine-tuned since.
    """
    plain, _ = own(model, base_dir)
    passed = passes.take_back(plain)
    found = list(scan(plain))
    hardened = is_hardened(plain, found)
    tuned = provenance(plain).get(FINETUNING)
    if isinstance(tuned, dict) and (tuned.get("hardened") or not hardened):
        if passed:
            return plain
        raise ModelError(
            "the weights were fine-tuned, and the file does not hold the earlier ones: take the "
            f"model it was made of, SHA-256 {tuned.get('source_sha256')}"
        )
    if hardened:
        take_back(plain, found)
    elif not passed:
        raise ModelError(NOT_HARDENED)
    return plain
