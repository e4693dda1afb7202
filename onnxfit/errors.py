"""What onnxfit raises on purpose.

OnnxfitError
├── ModelError          the ONNX file cannot be read, written, hardened or computed
├── UnsupportedOperator the twin cannot compute an operator of the model
├── NativeLibraryError  the custom-op library or a provider cannot be used here
├── ParityError         the twin and the file in ONNX Runtime disagree
└── DataError           a data or jump file is not what it should be

A wrong argument from Python is a ``ValueError`` or ``TypeError``, as everywhere else.
The command line turns ``NativeLibraryError`` and ``ParityError`` into exit status 3 (the
environment cannot do it) and every other one into 2 (bad input).
"""


class OnnxfitError(Exception):
    """Never raised directly."""


class ModelError(OnnxfitError):
    """The ONNX file cannot be read, written, hardened or computed."""


class UnsupportedOperator(OnnxfitError):
    """The twin cannot compute an operator of the model.

    Args:
        node: The node's name, which may be empty.
        op_type: Its operator.
        opset: The version of its domain that the model imports.
        domain: Its domain, empty for ONNX's own.
        reason: Why not, as the end of a sentence.
    """

    def __init__(self, node: str, op_type: str, opset: int, domain: str, reason: str) -> None:
        super().__init__(node, op_type, opset, domain, reason)
        self.node, self.op_type, self.opset, self.domain = node, op_type, opset, domain
        self.reason = reason

    def __str__(self) -> str:
        """Return the sentence."""
        return (
            f"the twin cannot compute node {self.node!r}, {self.op_type} of opset {self.opset} "
            f"in the domain {self.domain or 'ai.onnx'!r}: {self.reason}"
        )


class NativeLibraryError(OnnxfitError):
    """The custom-op library, or a provider that was asked for, cannot be used here."""


class DataError(OnnxfitError):
    """A data or jump file is not what it should be."""


class ParityError(OnnxfitError):
    """The twin and the file in ONNX Runtime disagree, or a sample alone and in a batch.

    Its gradients mean nothing then.
    """
