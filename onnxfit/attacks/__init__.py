"""Attacks: each a value with settings, called with a module, samples and labels.

``PGD(eps=8 / 255)(module, inputs, labels)`` returns the adversarial inputs. The module is any
``torch.nn.Module`` that returns logits; where it holds JumpReLUs, gradient attacks can choose
their slope in the backward pass.
"""

from onnxfit.attacks.apgd import APGD, TargetedAPGD
from onnxfit.attacks.art import as_art_classifier
from onnxfit.attacks.carlini_wagner import CarliniWagner
from onnxfit.attacks.deepfool import DeepFool
from onnxfit.attacks.evasion import UniversalEvasion, universal_evasion_rate
from onnxfit.attacks.fab import FAB
from onnxfit.attacks.gradient import BIM, FGSM, PGD
from onnxfit.attacks.hop_skip_jump import HopSkipJump
from onnxfit.attacks.noise import RandomNoise
from onnxfit.attacks.procedural import chessboard, perlin
from onnxfit.attacks.square import Square
from onnxfit.attacks.surrogates import scales_of
from onnxfit.attacks.transfer import Transfer
from onnxfit.attacks.trust_region import TrustRegion
from onnxfit.attacks.universal import UniversalPerturbation

__all__ = [
    "APGD",
    "BIM",
    "FAB",
    "FGSM",
    "PGD",
    "CarliniWagner",
    "DeepFool",
    "HopSkipJump",
    "RandomNoise",
    "Square",
    "TargetedAPGD",
    "Transfer",
    "TrustRegion",
    "UniversalEvasion",
    "UniversalPerturbation",
    "as_art_classifier",
    "chessboard",
    "perlin",
    "scales_of",
    "universal_evasion_rate",
]
