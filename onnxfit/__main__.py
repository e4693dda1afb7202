"""``python -m onnxfit`` is ``onnxfit``."""

from onnxfit.cli import main

main(prog_name="onnxfit")
