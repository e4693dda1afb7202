"""What a calibration gives: jumps, and what is known of them."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from onnxfit.calibration.document import Document, summary
from onnxfit.calibration.scales import Jump
from onnxfit.hardening import retrofit
from onnxfit.json_values import finite
from onnxfit.record import record_calibration
from onnxfit.replacing import replacing

JSON, HTML = "calibration.json", "report.html"
FILES = (JSON, HTML)
SOURCE = "onnxfit.source_sha256"


class Calibration(dict[str, Jump]):
    """Jumps by site, as :func:`onnxfit.retrofit` takes them, and what they buy.

    Args:
        jumps: By site: a number, or an array that broadcasts to the activation.
        document: What ``calibration.json`` holds.
        plain: The model before hardening.
        folder: Of its external data.

    Attributes:
        document: What ``calibration.json`` holds.
    """

    def __init__(
        self,
        jumps: Mapping[str, Jump],
        document: Document,
        plain: ModelProto,
        folder: Path | None = None,
    ) -> None:
        super().__init__(jumps)
        self.document = document
        self._plain, self._folder = plain, folder

    @property
    def improves(self) -> bool:
        """Whether the jumps make the model more robust beyond noise."""
        return bool(self.document["improves"])

    def harden(self) -> ModelProto:
        """Return the model with the jumps, and a record of how they were found."""
        hard = retrofit(self._plain, jumps=self, base_dir=self._folder)
        # The file that was calibrated need not be what protobuf writes of it.
        for entry in hard.metadata_props:
            if entry.key == SOURCE:
                entry.value = self.document["model"]["sha256"]
        record_calibration(hard, finite(summary(self.document)))
        return hard

    def write_report(self, folder: str | Path) -> None:
        """Write ``calibration.json`` and ``report.html`` to a folder, made if need be.

        Raises:
            ModuleNotFoundError: Jinja or Matplotlib is not installed.
        """
        from onnxfit.report.calibration import render_calibration

        texts = {JSON: self.to_json(), HTML: render_calibration(self.document)}
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            for name, text in texts.items():
                path = stack.enter_context(replacing(folder / name))
                path.write_text(text, encoding="utf-8")

    def to_json(self) -> str:
        """Return the document as JSON text."""
        return json.dumps(finite(self.document), indent=2, allow_nan=False) + "\n"
