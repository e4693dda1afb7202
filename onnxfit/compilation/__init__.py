"""Compile a hardened model ahead of time for ONNX Runtime on one kind of machine."""
