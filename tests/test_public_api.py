"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import onnxfit


def test_all_lists_exactly_the_public_names() -> None:
    """Every name in `__all__` resolves, each has a docstring, and no other is public."""
    assert sorted(onnxfit.__all__) == onnxfit.__all__
    for name in onnxfit.__all__:
        assert getattr(onnxfit, name).__doc__
        assert getattr(onnxfit, name).__module__.startswith("onnxfit.")
    assert sorted(onnxfit._HOMES) == onnxfit.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for every module."""
    with pytest.raises(AttributeError, match=r"^module 'onnxfit' has no attribute 'nothing'$"):
        _ = onnxfit.nothing


@pytest.mark.parametrize("module", ["onnxfit", "onnxfit.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    """numpy, onnx, rich, torch and the like are imported by the verb that needs them."""
    heavy = ("numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "rich", "torch", "matplotlib")
    program = f"import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout == "\n"


def test_submodules_do_not_hide_the_functions() -> None:
    """No order of imports makes a public function a module."""
    program = (
        "import onnxfit.cli, onnxfit.doctor, onnxfit.inspection, onnxfit.hardening, onnxfit\n"
        "print(all(callable(getattr(onnxfit, name)) for name in onnxfit.__all__))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout == "True\n"
