"""What onnxfit raises on purpose.

OnnxfitError
├── ModelError           the ONNX file cannot be read, written or hardened
├── UnsupportedOperator  the PyTorch twin has no converter for a node
├── NativeLibraryError   the custom-op library or a provider cannot be used here
├── DataError            a data, jump or policy file is not what it should be
├── CalibrationError     no jump size satisfies what was asked
└── ParityError          the twin and the deployed file disagree

A wrong argument from Python is a ``ValueError`` or ``TypeError``, as everywhere else.
The command line turns ``NativeLibraryError`` and ``ParityError`` into exit status 3
(the environment cannot do it) and every other one into 2 (bad input).
"""


class OnnxfitError(Exception):
    """Never raised directly."""


class ModelError(OnnxfitError):
    """The ONNX file cannot be read, written or hardened."""


class UnsupportedOperator(OnnxfitError):
    """The PyTorch twin has no converter for a node."""


class NativeLibraryError(OnnxfitError):
    """The custom-op library, or a provider that was asked for, cannot be used here."""


class DataError(OnnxfitError):
    """A data, jump or policy file is not what it should be."""


class CalibrationError(OnnxfitError):
    """No jump size satisfies what was asked."""


class ParityError(OnnxfitError):
    """The twin and the deployed file disagree."""
