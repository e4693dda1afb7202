"""Network definitions for the training scripts in this folder.

Every activation is a module of its own, so that the values in the ONNX file carry its name.
"""

from collections import OrderedDict

from torch import Tensor, nn


def convolution(channels_in: int, channels_out: int, size: int) -> nn.Sequential:
    """Return a convolution that keeps height and width, then batch normalisation."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
            norm=nn.BatchNorm2d(channels_out),
        )
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016).

    Where the number of channels changes, the shortcut is a 1x1 convolution.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Create the block."""
        super().__init__()
        self.conv1 = convolution(channels_in, channels_out, 3)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(channels_out, channels_out, 3)
        self.relu2 = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map N x channels_in x H x W to N x channels_out x H x W."""
        hidden = self.conv2(self.relu1(self.conv1(inputs)))
        outputs: Tensor = self.relu2(hidden + self.shortcut(inputs))
        return outputs


class DigitsCNN(nn.Module):
    """A small residual network for 8x8 grey images, with six activations."""

    def __init__(self, width: int = 16) -> None:
        """Create the network with `width` channels before the first pooling, twice that after."""
        super().__init__()
        self.stem = convolution(1, width, 3)
        self.stem_relu = nn.ReLU()
        self.block1 = ResidualBlock(width, width)
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = ResidualBlock(width, 2 * width)
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(8 * width, 64)
        self.hidden_relu = nn.ReLU()
        self.output = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map images in [0, 1], N x 1 x 8 x 8, to logits, N x 10."""
        features = self.pool1(self.block1(self.stem_relu(self.stem(image))))
        features = self.flatten(self.pool2(self.block2(features)))
        logits: Tensor = self.output(self.hidden_relu(self.hidden(features)))
        return logits
