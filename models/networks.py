"""The blocks of the networks in this folder, and DigitsCNN.

Every activation is a module of its own, so that the values in the ONNX file carry its name.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def convolution(
    channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps height and width but for its stride, then normalisation."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(
                channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False
            ),
            norm=nn.BatchNorm2d(channels_out),
        )
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016).

    Where the number of channels changes, the shortcut is a 1x1 convolution. The stride is that of
    the first convolution; 2 is for blocks that change the channels.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        """Create the block."""
        super().__init__()
        self.conv1 = convolution(channels_in, channels_out, 3, stride)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(channels_out, channels_out, 3)
        self.relu2 = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1, stride)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        hidden = self.conv2(self.relu1(self.conv1(inputs)))
        outputs: Tensor = self.relu2(hidden + self.shortcut(inputs))
        return outputs


class PreActivationBlock(nn.Module):
    """A residual block that normalises and rectifies before its convolutions.

    Zagoruyko and Komodakis (2016). Where the number of channels changes, the shortcut is a 1x1
    convolution of the rectified inputs.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        """Create the block."""
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        # Normalised after the convolution, which is before the second activation.
        self.conv1 = convolution(channels_in, channels_out, 3, stride)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = (
            None
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        rectified = self.relu1(self.norm1(inputs))
        beside = inputs if self.shortcut is None else self.shortcut(rectified)
        outputs: Tensor = self.conv2(self.relu2(self.conv1(rectified))) + beside
        return outputs


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, one 3x3 within each channel, and a 1x1 back.

    Sandler et al. (2018), with ReLU in the place of ReLU6. The inputs are added where their shape
    is that of the outputs.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, expansion: int = 6
    ) -> None:
        """Create the block; with an expansion of 1 it has no first convolution."""
        super().__init__()
        hidden = expansion * channels_in
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand"] = convolution(channels_in, hidden, 1)
            layers["expand_relu"] = nn.ReLU()
        layers["depthwise"] = convolution(hidden, hidden, 3, stride, groups=hidden)
        layers["depthwise_relu"] = nn.ReLU()
        layers["project"] = convolution(hidden, channels_out, 1)
        self.layers = nn.Sequential(layers)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, inputs: Tensor) -> Tensor:
        """Map N x channels_in x H x W to N x channels_out x H/stride x W/stride."""
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.adds else outputs


class Normalised(nn.Module):
    """A network that is given pixels in [0, 1] and normalises them first.

    `network` is the part without the normalisation, which is what the ONNX file holds.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap the network; there is a mean and a deviation for each channel."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what the network itself is given for these pixels, N x C x H x W."""
        return (pixels - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels in [0, 1], N x C x H x W, to logits."""
        return self.network(self.normalised(pixels))


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
