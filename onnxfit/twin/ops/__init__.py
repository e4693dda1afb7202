"""Converters from ONNX operators to PyTorch, an operator family a file.

A converter takes a :class:`~onnxfit.twin.node.Node`, adds steps with ``node.emit(function, …)``
and returns the values of the node's outputs. It is found by the operator's name, domain and
version, so adding an operator touches one file.
"""
