"""The attacks by the names that the command line and reports give them."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from onnxfit.attacks.apgd import APGD, TargetedAPGD
from onnxfit.attacks.attack import Attack
from onnxfit.attacks.carlini_wagner import CarliniWagner
from onnxfit.attacks.deepfool import DeepFool
from onnxfit.attacks.fab import FAB
from onnxfit.attacks.gradient import BIM, FGSM, PGD
from onnxfit.attacks.hop_skip_jump import HopSkipJump
from onnxfit.attacks.noise import RandomNoise
from onnxfit.attacks.square import Square
from onnxfit.attacks.transfer import Transfer
from onnxfit.attacks.trust_region import TrustRegion

# Name → what makes the attack, and the settings that the name stands for.
CATALOGUE: dict[str, tuple[type[Attack], dict[str, Any]]] = {
    "noise": (RandomNoise, {}),
    "fgsm": (FGSM, {"steps": 1}),
    "bim": (BIM, {}),
    "pgd": (PGD, {}),
    "mi-fgsm": (BIM, {"momentum": 1.0}),
    "apgd-ce": (APGD, {"loss": "ce"}),
    "apgd-dlr": (APGD, {"loss": "dlr"}),
    "apgd-t": (TargetedAPGD, {}),
    "fab-t": (FAB, {}),
    "deepfool": (DeepFool, {}),
    "cw": (CarliniWagner, {}),
    "trust-region": (TrustRegion, {}),
    "square": (Square, {}),
    "hop-skip-jump": (HopSkipJump, {}),
    "transfer": (Transfer, {}),
}


def make_attack(name: str, settings: Mapping[str, Any]) -> Attack:
    """Make an attack by its name.

    Args:
        name: One of :data:`CATALOGUE`.
        settings: Those that were given; None stands for the attack's own.

    Raises:
        ValueError: There is no such attack, it has no such setting, or one is out of its range.
    """
    if name not in CATALOGUE:
        raise ValueError(f"there is no attack {name!r}, there are {', '.join(CATALOGUE)}")
    kind, implied = CATALOGUE[name]
    fields = {field.name for field in dataclasses.fields(kind)} - implied.keys()
    return kind(**implied, **given(name, settings, fields))


def given(name: str, settings: Mapping[str, Any], known: Set[str]) -> dict[str, Any]:
    """Return the settings of an attack that were given: those that are not None.

    Args:
        name: Of the attack.
        settings: All of them.
        known: Those that the attack has.

    Raises:
        ValueError: One was given that the attack does not have.
    """
    found = {key: value for key, value in settings.items() if value is not None}
    for key in found.keys() - known:
        raise ValueError(f"the attack {name} has no setting {key}")
    return found
