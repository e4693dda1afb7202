"""Which attacks a suite holds, in which order, and on which samples."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from onnxfit.attacks.apgd import APGD, TargetedAPGD
from onnxfit.attacks.attack import Attack, GradientAttack
from onnxfit.attacks.ball import Bounds, Norm
from onnxfit.attacks.fab import FAB
from onnxfit.attacks.gradient import FGSM, PGD
from onnxfit.attacks.hop_skip_jump import HopSkipJump
from onnxfit.attacks.noise import RandomNoise
from onnxfit.attacks.square import Square
from onnxfit.attacks.surrogates import TAUS
from onnxfit.attacks.transfer import Transfer
from onnxfit.attacks.universal import UniversalPerturbation

Suite = Literal["quick", "standard", "paper"]

# The names of the attacks of one step, and of many, with the model's own gradients.
FEW_STEPS = "fgsm"
MANY_STEPS = ("pgd", "apgd-ce")

Family = Literal["native", "surrogate", "black-box"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack of a suite.

    Attributes:
        name: As reports call it.
        attack: With its settings.
        family: ``native``: with the model's own gradients; ``surrogate``: with another backward
            pass or of another network; ``black-box``: without gradients of the model.
        network: The surrogate network whose gradients it follows, in place of the model's.
        deployed: Whether it runs on the file in ONNX Runtime, not on the twin.
        everyone: Whether it is given samples that earlier attacks broke as well, so that it can
            be compared with others.
        transfer: Whether it attacks the other model of the two that are compared, with that one's
            own gradients, and the points are tried on this one.
    """

    name: str
    attack: Attack
    family: Family
    network: str | None = None
    deployed: bool = False
    everyone: bool = False
    transfer: bool = False

    @property
    def backward(self) -> str:
        """What reports call the backward pass: ``true``, ``relu``, ``smooth τ`` or ``none``.

        Through a surrogate network it is the network's name, and ``, smooth τ`` where that is so.
        Of a transfer from sources that were asked for it is theirs.
        """
        if self.transfer or not isinstance(self.attack, GradientAttack | Transfer):
            return "none"
        name = backward_name(self.attack)
        if self.network is None:
            return name
        return self.network if name == "true" else f"{self.network}, {name}"

    @property
    def needs_gradients(self) -> bool:
        """Whether it follows gradients of the model under attack."""
        return isinstance(self.attack, GradientAttack)

    def through(self, network: str) -> Self:
        """Return the stage as it follows a surrogate network."""
        return dataclasses.replace(self, family="surrogate", network=network)

    def on(self, source: torch.nn.Module | None, seed: int) -> Attack:
        """Return the attack with its seed, and a transfer with the model to start from."""
        changes: dict[str, Any] = {"seed": seed}
        if self.transfer and source is not None:
            changes["source"] = source
        return dataclasses.replace(self.attack, **changes)


def backward_name(attack: GradientAttack | UniversalPerturbation | Transfer) -> str:
    """Return what reports call the backward pass that an attack follows."""
    return f"smooth {attack.tau:g}" if attack.backward == "smooth" else attack.backward


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What an attacker may do, and what all attacks of a suite share.

    Attributes:
        eps: Largest perturbation, in units of the bounds and the norm.
        norm: ``linf`` or ``l2``.
        bounds: Smallest and largest value of a sample.
        quantize: Whether adversarial inputs are stored in 8 bits.
        eot: Passes that a gradient is averaged over.
    """

    eps: float
    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    quantize: bool = False
    eot: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """What every attack within a budget is given."""
        return {
            "eps": self.eps,
            "norm": self.norm,
            "bounds": self.bounds,
            "quantize": self.quantize,
        }


def stages(
    suite: Suite,
    threat: Threat,
    *,
    jumps: bool,
    transfer: bool,
    steps: int | None = None,
    networks: Sequence[str] = (),
    hardened: bool = True,
) -> list[Stage]:
    """Return the attacks of ``quick`` or ``standard``.

    ``standard`` holds the four of AutoAttack's standard version (Croce and Hein, 2020): APGD-CE,
    targeted APGD and FAB and Square, as well as the first two with every surrogate backward pass,
    transfer and a decision-based attack. ``quick`` has PGD in their place, and fewer queries.

    Args:
        suite: Its name.
        threat: What an attacker may do.
        jumps: Whether the models hold JumpReLUs, so that surrogates make a difference.
        transfer: Whether there is another model to transfer from.
        steps: Of the attacks that follow gradients; by default 20 in ``quick``, else 100.
        networks: The surrogate networks that a model has, by name.
        hardened: Whether any jump is not 0, so that these are tried with smooth gates, too.
    """
    make = _quick if suite == "quick" else _standard
    chosen = list(make(threat, jumps, transfer, steps))
    through = list(_through_networks(suite, threat, steps, networks, hardened))
    # White-box attacks come before those that need no gradients.
    white_box = sum(stage.family != "black-box" for stage in chosen)
    return [*chosen[:white_box], *through, *chosen[white_box:]]


def backwards(jumps: bool) -> list[dict[str, Any]]:
    """Return the settings of every surrogate backward pass."""
    smooth = [{"backward": "smooth", "tau": tau} for tau in TAUS]
    return [{"backward": "relu"}, *smooth] if jumps else []


def few_backwards(jumps: bool, taus: Sequence[float] = (TAUS[0], TAUS[2])) -> list[dict[str, Any]]:
    """Return the settings of the true backward pass and of smooth gates, one narrow and one wide.

    Args:
        jumps: Whether gates make a difference.
        taus: Their widths.
    """
    smooth = [{"backward": "smooth", "tau": tau} for tau in taus]
    return [{}, *smooth] if jumps else [{}]


def _quick(threat: Threat, jumps: bool, transfer: bool, steps: int | None) -> Iterator[Stage]:
    within = threat.settings
    descent: dict[str, Any] = {**within, "eot": threat.eot, "steps": steps or 20}
    fgsm = FGSM(**within, eot=threat.eot)
    yield Stage(name=FEW_STEPS, attack=fgsm, family="native", everyone=True)
    yield Stage(name="pgd", attack=PGD(**descent), family="native", everyone=True)
    yield Stage(name="pgd-margin", attack=PGD(**descent, loss="margin"), family="native")
    for settings in backwards(jumps):
        yield Stage(name="pgd", attack=PGD(**descent, **settings), family="surrogate")
    if jumps:
        attack = PGD(**descent, loss="margin", backward="smooth", tau=TAUS[1])
        yield Stage(name="pgd-margin", attack=attack, family="surrogate")
    yield from _without_gradients(threat, transfer, steps=steps or 20, queries=200, decisions=None)


def _standard(threat: Threat, jumps: bool, transfer: bool, steps: int | None) -> Iterator[Stage]:
    within = threat.settings
    descent: dict[str, Any] = {**within, "eot": threat.eot, "steps": steps or 100}
    fgsm = FGSM(**within, eot=threat.eot)
    yield Stage(name=FEW_STEPS, attack=fgsm, family="native", everyone=True)
    yield Stage(name="apgd-ce", attack=APGD(**descent), family="native", everyone=True)
    yield Stage(name="apgd-t", attack=TargetedAPGD(**descent), family="native")
    yield Stage(name="fab-t", attack=FAB(**descent), family="native")
    kinds: list[tuple[str, Callable[..., Attack]]] = [("apgd-ce", APGD), ("apgd-t", TargetedAPGD)]
    for name, kind in kinds:
        for settings in backwards(jumps):
            yield Stage(name=name, attack=kind(**descent, **settings), family="surrogate")
    yield from _without_gradients(threat, transfer, steps=40, queries=5000, decisions=1000)


def _through_networks(
    suite: Suite, threat: Threat, steps: int | None, networks: Sequence[str], hardened: bool
) -> Iterator[Stage]:
    """Yield the attacks that follow surrogate networks."""
    descent: dict[str, Any] = {**threat.settings, "eot": threat.eot}
    for network in networks:
        how: dict[str, Any] = {"family": "surrogate", "network": network}
        if suite == "quick":
            for settings in few_backwards(hardened, TAUS[1:2]):
                pgd = PGD(**descent, **settings, steps=steps or 20)
                yield Stage(name="pgd", attack=pgd, **how)
            continue
        for settings in few_backwards(hardened):
            apgd = APGD(**descent, **settings, steps=steps or 100)
            yield Stage(name="apgd-ce", attack=apgd, **how)
        targeted = TargetedAPGD(**descent, steps=steps or 100)
        yield Stage(name="apgd-t", attack=targeted, **how)


def _without_gradients(
    threat: Threat, transfer: bool, *, steps: int, queries: int, decisions: int | None
) -> Iterator[Stage]:
    """Yield the attacks that need no gradient of the model."""
    within = threat.settings
    noise, square = RandomNoise(**within), Square(**within, queries=queries)
    yield Stage(name="noise", attack=noise, family="black-box", deployed=True, everyone=True)
    if transfer:
        moved = Transfer(**within, steps=steps, source=torch.nn.Identity())
        yield Stage(name="transfer", attack=moved, family="black-box", transfer=True)
    yield Stage(name="square", attack=square, family="black-box", deployed=True)
    if decisions is not None:
        decided = HopSkipJump(**within, queries=decisions)
        yield Stage(name="hop-skip-jump", attack=decided, family="black-box", deployed=True)
