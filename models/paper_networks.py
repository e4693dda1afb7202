"""The five architectures of the JumpReLU paper (Erichson et al., arXiv 1904.03750).

Each function takes the shape of an image, channels x height x width, and a factor for the numbers
of channels and of hidden units. It returns a module that maps N x C x H x W to logits, N x 10.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from networks import InvertedResidual, PreActivationBlock, ResidualBlock, convolution
from torch import nn

CLASSES = 10
VALID_FROM = 16  # Below this size, convolutions without padding leave nothing to classify.
# Expansion, channels, blocks, stride of the first: Sandler et al. (2018), table 2, with the
# strides that are usual for 32x32 images.
INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

Shape = tuple[int, int, int]


def lenet(shape: Shape, width: float = 1) -> nn.Sequential:
    """Return LeNetLike: two 5x5 convolutions, pooled before they are rectified, three dense layers.

    Where an image is smaller than 16x16, the convolutions keep its height and width.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape[0]
    for number, wide in enumerate(_scaled((10, 20), width), 1):
        padding = 0 if min(shape[1:]) >= VALID_FROM else 2
        layers[f"conv{number}"] = nn.Conv2d(channels, wide, 5, padding=padding)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"relu{number}"] = nn.ReLU()
        channels = wide
    return _with_dense_layers(layers, shape, _scaled((120, 90), width))


def alexnet(shape: Shape, width: float = 1) -> nn.Sequential:
    """Return AlexLike: two times two 3x3 convolutions and a pooling, three dense layers.

    Where an image is smaller than 16x16, the convolutions keep its height and width.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape[0]
    for number, wide in enumerate(_scaled((64, 64, 128, 128), width), 1):
        padding = 0 if min(shape[1:]) >= VALID_FROM else 1
        layers[f"conv{number}"] = nn.Conv2d(channels, wide, 3, padding=padding)
        layers[f"relu{number}"] = nn.ReLU()
        if number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
        channels = wide
    return _with_dense_layers(layers, shape, _scaled((256, 256), width))


def resnet20(shape: Shape, width: float = 1) -> nn.Sequential:
    """Return the residual network of 20 layers for small images (He et al., 2016).

    Its three shortcuts that change the shape are 1x1 convolutions, option B.
    """
    stem, *stages = _scaled((16, 16, 32, 64), width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = convolution(shape[0], stem, 3)
    layers["stem_relu"] = nn.ReLU()
    layers["blocks"] = _stages(ResidualBlock, stem, stages, blocks=3)
    return _with_global_pooling(layers, stages[-1])


def wideresnet(shape: Shape, width: float = 1, depth: int = 16) -> nn.Sequential:
    """Return the wide residual network WRN-depth-width (Zagoruyko and Komodakis, 2016).

    The depth is 6 n + 4 for three stages of n blocks; the width does not change the stem.

    Raises:
        ValueError: The depth is none of 10, 16, 22, …
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise ValueError(f"expected a depth of 6 n + 4 (10, 16, 22, 28, 34, …), got {depth}")
    stages = _scaled((16, 32, 64), width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
    layers["blocks"] = _stages(PreActivationBlock, 16, stages, blocks)
    layers["norm"] = nn.BatchNorm2d(stages[-1])
    layers["relu"] = nn.ReLU()
    return _with_global_pooling(layers, stages[-1])


def mobilenetv2(shape: Shape, width: float = 1) -> nn.Sequential:
    """Return MobileNetV2 with ReLU in the place of ReLU6, for small images.

    Numbers of channels are multiples of 8. As in Sandler et al. (2018), a width below 1 does not
    make the last convolution narrower.
    """
    stem, *outputs = _scaled((32, *(row[1] for row in INVERTED)), width, step=8)
    head = _scaled((1280,), max(width, 1), step=8)[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = convolution(shape[0], stem, 3)
    layers["stem_relu"] = nn.ReLU()
    blocks, channels = [], stem
    for (expansion, _, repeats, first), wide in zip(INVERTED, outputs, strict=True):
        for stride in (first, *[1] * (repeats - 1)):
            blocks.append(InvertedResidual(channels, wide, stride, expansion))
            channels = wide
    layers["blocks"] = nn.Sequential(*blocks)
    layers["head"] = convolution(channels, head, 1)
    layers["head_relu"] = nn.ReLU()
    return _with_global_pooling(layers, head)


ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    "lenet": lenet,
    "alexnet": alexnet,
    "resnet20": resnet20,
    "mobilenetv2": mobilenetv2,
    "wideresnet": wideresnet,
}


def _scaled(numbers: Sequence[int], width: float, step: int = 1) -> list[int]:
    """Return the numbers times the width, rounded to multiples of the step, at least one step."""
    return [max(step, step * round(number * width / step)) for number in numbers]


def _stages(
    block: Callable[[int, int, int], nn.Module], channels: int, stages: Sequence[int], blocks: int
) -> nn.Sequential:
    """Return so many blocks for each stage; every stage but the first halves height and width."""
    layers = []
    for stage in stages:
        for number in range(blocks):
            halves = number == 0 and stage != stages[0]
            layers.append(block(channels, stage, 2 if halves else 1))
            channels = stage
    return nn.Sequential(*layers)


def _with_dense_layers(
    layers: OrderedDict[str, nn.Module], shape: Shape, hidden: Sequence[int]
) -> nn.Sequential:
    """Return the layers, then rectified dense layers of these sizes, then the logits."""
    units = nn.Sequential(layers)(torch.zeros(1, *shape)).numel()
    layers["flatten"] = nn.Flatten()
    for number, size in enumerate(hidden, 1):
        layers[f"hidden{number}"] = nn.Linear(units, size)
        layers[f"hidden{number}_relu"] = nn.ReLU()
        units = size
    layers["output"] = nn.Linear(units, CLASSES)
    return _initialised(nn.Sequential(layers))


def _with_global_pooling(layers: OrderedDict[str, nn.Module], channels: int) -> nn.Sequential:
    """Return the layers, then the mean over height and width, then the logits."""
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(channels, CLASSES)
    return _initialised(nn.Sequential(layers))


def _initialised(network: nn.Sequential) -> nn.Sequential:
    """Draw all weights as He et al. (2015) do, so that depth does not shrink what passes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
