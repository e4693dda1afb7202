"""What onnxfit raises on purpose.

OnnxfitError
├── ModelError          the ONNX file cannot be read, written or hardened
├── NativeLibraryError  the custom-op library or a provider cannot be used here
└── DataError           a data or jump file is not what it should be

A wrong argument from Python is a ``ValueError`` or ``TypeError``, as everywhere else.
The command line turns ``NativeLibraryError`` into exit status 3 (the environment cannot do it)
and every other one into 2 (bad input).
"""


class OnnxfitError(Exception):
    """Never raised directly."""


class ModelError(OnnxfitError):
    """The ONNX file cannot be read, written or hardened."""


class NativeLibraryError(OnnxfitError):
    """The custom-op library, or a provider that was asked for, cannot be used here."""


class DataError(OnnxfitError):
    """A data or jump file is not what it should be."""
