"""The terms of the loss by their names, a file each."""

from onnxfit.finetuning.terms.adversarial import Adversarial
from onnxfit.finetuning.terms.j_sigr import SelectiveInputGradient
from onnxfit.finetuning.terms.jacobian import Jacobian
from onnxfit.finetuning.terms.sensitivity import Sensitivity
from onnxfit.finetuning.terms.term import Term
from onnxfit.finetuning.terms.trades import Trades

_KINDS: tuple[type[Term], ...] = (
    Adversarial,
    Trades,
    Jacobian,
    Sensitivity,
    SelectiveInputGradient,
)
TERMS: dict[str, type[Term]] = {kind.name: kind for kind in _KINDS}
