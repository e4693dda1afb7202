"""The benchmark of the terms of a fine-tuning: what its tables and words say of made-up runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import finetune
import finetune_claims
import finetune_report
from finetune_cases import NETWORKS, Way, copies
from paper_results import Results

NETWORK = NETWORKS[1]


def counts(right: int, only_before: int = 0) -> dict[str, int]:
    """Make counts of images: those that stay right, and those that only the network before lost."""
    return {"right": right, "only_after": 0, "only_before": only_before}


def judged(way: Way, evaded: int, gained: int) -> dict[str, Any]:
    """Make a judgement on 400 images, all right, 200 of them also under the attacks before."""
    return {
        **finetune.described(way),
        "kept": True,
        "n": 400,
        "clean": counts(400),
        "native": counts(200 + gained, gained),
        "worst": counts(200 + gained, gained),
        "universal": [
            {"eps": eps, "correct": 400, "evaded": evaded, **counts(0, 80 - evaded)}
            for eps in NETWORK.universal
        ],
        "transfer": {name: counts(200 + gained, gained) for name in finetune_claims.SOURCES},
        "jacobian": {"mean": 12.34, "ci95": [11.1, 13.5]},
        "training": 33.3 if way.method else None,
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Return a network as it is, with two methods, one of which kept nothing with the jump."""
    found = Results(tmp_path / "finetune.json")
    ways = {
        Way(): (80, 0),
        Way("jacobian", 0.01): (16, 100),
        Way("j-sigr", 0.01): (80, 0),
    }
    runs = {f"judged/{way}": judged(way, *figures) for way, figures in ways.items()}
    lost = Way("jacobian", 0.01, 0.1)
    runs[f"judged/{lost}"] = {**finetune.described(lost), "kept": False}
    runs["jump"] = {"jump": 0.1, "improves": False}
    for name, run in runs.items():
        rest = {"commit": "0" * 40, "versions": {"onnxfit": "1"}, "processor": "a CPU"}
        found.add(f"{NETWORK.key}/{name}", {"threads": 1, **rest, **run})
    return found


def test_tables_of_made_up_runs(results: Results) -> None:
    """Shares with intervals, what kept no budget, what is missing."""
    text = "\n".join(finetune_report.document(results))

    assert "| nothing | – | 100.0 % (99.0 to 100.0) | 50.0 % (45.1 to 54.9) |" in text
    assert "+25.0 (+21.0 to +29.5) | more robust | 12.3 (11.1 to 13.5) | 33 |" in text
    assert "| 20.0 % (16.4 to 24.2) | 50.0 % (45.1 to 54.9) † |" in text
    assert "With `jacobian` and jump no check kept the budget of clean accuracy." in text
    assert "Not measured yet: LeNetLike, MNIST, ResNet-2B, CIFAR-10." in text


def test_claims_of_made_up_runs(results: Results) -> None:
    """A factor that is beyond noise is told; what moves nothing is neither better nor worse."""
    text = "\n".join(finetune_claims.claims(results, [NETWORK]))

    assert "| DigitsCNN, digits, 10/255 | 20.0 % | – | – | 4.0 % ↑ | – | 20.0 % |" in text
    assert "`jacobian` is better in 2 and worse in 0 of 2 rows; clean accuracy changes by" in text
    assert "5.0 times fewer succeed at most: a factor of\n4 is reached." in text
    assert "from the stranger | 50.0 % | – | – | 75.0 % ↑ | – | 50.0 % |" in text
    assert "`j-sigr` is better in 0 and worse in 0 of 2 rows" in text
    assert "So the claim is not confirmed here." in text


def test_tables_are_of_the_runs_that_are_kept() -> None:
    """Nobody changed a figure, or forgot to write them anew."""
    lines = finetune_report.document(Results(finetune_report.STORE))

    assert "\n".join([*lines, ""]) == finetune_report.TABLES.read_text(encoding="utf-8")


def test_the_weight_worth_most_is_chosen() -> None:
    """By clean and robust accuracy together; a training that kept nothing is worth less."""
    assert 1.5 == finetune.worth({"validation": {"clean": 1.0, "robust": 0.5}})
    assert -1.0 == finetune.worth({"validation": None})


def test_copies_are_found() -> None:
    """An image with a little noise is a copy, another one is not."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    x[2] //= 2
    noisy = x[:1].astype(np.int16) + rng.integers(-6, 7, x[:1].shape)

    np.testing.assert_array_equal([True, False], copies(x[[0, 2]], noisy))
