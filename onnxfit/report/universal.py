"""What the report shows of universal perturbations: a row a kind, and pictures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.data import Bounds
from onnxfit.report import pictures

Document = Mapping[str, Any]
Deltas = Mapping[Any, NDArray[np.float32]]

_NAMES = {"uap": "SGD-UAP", "chessboard": "Chessboard", "perlin": "Perlin noise"}


def section(
    record: Document | None, names: Mapping[str, str], deltas: Deltas, bounds: Bounds
) -> dict[str, Any]:
    """Return what the section shows.

    Args:
        record: That of the document, None where nothing was made.
        names: What ``model`` and, if it is shown, ``baseline`` are called.
        deltas: The SGD-UAP of each side; only those that are images are drawn, on one scale.
        bounds: Smallest and largest value of a sample.

    Returns:
        Nothing without a record; only the ``reason`` where nothing was made; else the ``record``,
        a row for each kind with what was measured of each side, and the ``pictures`` with how many
        ``times`` they are magnified and whether they are ``grey``.
    """
    if not record or record.get("reason"):
        return dict(record or {})
    shown = {
        side: deltas[side] for side in names if side in deltas and pictures.drawable(deltas[side])
    }
    scale = max((float(np.abs(delta).max()) for delta in shown.values()), default=0.0)
    return {
        "record": record,
        "rows": [
            {
                "name": name,
                "sides": {side: (record.get(side) or {}).get(kind) or {} for side in names},
            }
            for kind, name in _NAMES.items()
        ],
        "times": pictures.magnified(scale, bounds),
        "grey": any(pictures.grey(delta) for delta in shown.values()),
        "pictures": {side: pictures.perturbation(delta, scale) for side, delta in shown.items()},
    }
