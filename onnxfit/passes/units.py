"""In what units samples are, and how they are normalised."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxfit import checks
from onnxfit.data import Bounds


@dataclass(frozen=True, kw_only=True)
class Units:
    """In what units samples are, and what the network takes: (sample - mean) / std.

    Attributes:
        bounds: Smallest and largest value of a sample.
        mean: One number, or one for each channel.
        std: The same; above 0.

    Raises:
        ValueError: One is out of its range.
    """

    bounds: Bounds = (0.0, 1.0)
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        checks.bounds(self.bounds)
        checks.normalisation(self.mean, self.std)

    def check_channels(self, channels: int) -> None:
        """Check that they are for samples of so many channels.

        Raises:
            ValueError: There are neither one nor as many means or stds.
        """
        checks.per_channel("mean", self.mean, channels)
        checks.per_channel("std", self.std, channels)

    @property
    def record(self) -> dict[str, list[float]]:
        """What the record in a file tells of them."""
        parts = {"bounds": self.bounds, "mean": self.mean, "std": self.std}
        return {name: [float(number) for number in part] for name, part in parts.items()}
