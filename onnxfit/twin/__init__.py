"""The twin: an ONNX model as a PyTorch module, with its gradients.

``module.py`` holds :func:`to_torch`, ``builder.py`` walks the graph, ``registry.py`` knows which
converter in ``ops/`` (an operator family a file) turns a node into steps, and ``program.py``
writes the steps out as one Python function.
"""
