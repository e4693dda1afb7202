"""The attacks on a CUDA device: the same code, the same guarantees."""

from typing import Any

import numpy as np
import pytest
from support import MODELS

import onnxfit

torch = pytest.importorskip("torch")

from onnxfit.attacks.catalogue import CATALOGUE, make_attack  # noqa: E402
from onnxfit.twin.classifier import Classifier  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CHEAP: dict[str, dict[str, Any]] = {
    "apgd-t": {"steps": 10, "targets": 3},
    "cw": {"eps": 3.0, "steps": 60, "norm": "l2"},
    "fab-t": {"steps": 10, "targets": 3},
    "hop-skip-jump": {"eps": 3.0, "queries": 200, "norm": "l2"},
    "square": {"queries": 100},
}


@pytest.mark.parametrize("backward", [None, "smooth"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_attack_runs_there(name: str, backward: str | None) -> None:
    """Points come back where the samples were, inside the ball, and most fool what they should."""
    twin = Classifier(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.5)).cuda()
    source = Classifier(MODELS / "digits_cnn_pgd.onnx").cuda() if name == "transfer" else None
    settings = {"eps": 0.15, "source": source, **CHEAP.get(name, {})}
    if backward and "backward" not in CATALOGUE[name][0].__dataclass_fields__:
        pytest.skip(f"{name} follows no gradients")
    attack = make_attack(name, {**settings, "backward": backward})
    with np.load(MODELS / "digits_test.npz") as data:
        x, y = torch.from_numpy(data["x"][:32]), torch.from_numpy(data["y"][:32])
    points = attack(twin, x, y)
    assert "cpu" == points.device.type
    assert points.min() >= 0
    assert points.max() <= 1
    moved = (points.double() - x.double()).flatten(1)
    norms = moved.abs().amax(1) if attack.norm == "linf" else moved.norm(dim=1)
    assert norms.max() <= attack.radius
    broken = twin(points.cuda()).argmax(1).cpu() != y
    assert broken.sum() >= (0 if name in ("noise", "transfer") else 3)
    assert points.equal(attack(twin, x, y))
