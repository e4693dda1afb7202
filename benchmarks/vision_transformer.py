"""The vision transformer of ``cifar10/vit_pgd_2_3_16.onnx`` as it is written by hand in PyTorch."""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

WIDTH, HEADS, DEPTH, PATCH = 48, 3, 2, 16


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a BatchNorm of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block on N×L×width."""
        y = self.norm1(x.transpose(1, 2)).transpose(1, 2)
        q, k, v = (self._split(layer(y)) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        y = self.norm2(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(torch.relu(self.up(y)))

    @staticmethod
    def _split(x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Two blocks over patches of 16×16 and a class token, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(5, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits, N×10, of images, N×3×32×32."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(x), -1, -1), tokens), 1) + self.positions
        return self.head(self.norm(self.blocks(tokens).mean(1)))


def load(path: Path) -> VisionTransformer:
    """Make the network with the weights of the file."""
    graph = onnx.load(path).graph
    tensors = {
        each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
        for each in graph.initializer
    }
    # The exporter turned the matrices of linear layers, and numbered them in the order of use.
    matrices = (tensors[name].t() for name in tensors if name.startswith("onnx::MatMul"))
    network = VisionTransformer().eval()
    state: dict[str, Tensor] = {
        "token": tensors["0.cls_token"].reshape(1, 1, WIDTH),
        "positions": tensors["0.positions"],
    }

    def take(layer: str, prefix: str, *names: str) -> None:
        state.update({f"{layer}.{name}": tensors[f"{prefix}.{name}"] for name in names})

    normal = ("weight", "bias", "running_mean", "running_var")
    take("patches", "0.projection", "weight", "bias")
    take("norm", "2.1", *normal)
    take("head", "2.2", "weight", "bias")
    for index in range(DEPTH):
        block, source = f"blocks.{index}", f"1.{index}"
        take(f"{block}.norm1", f"{source}.0.fn.0.norm", *normal)
        take(f"{block}.norm2", f"{source}.1.fn.0.norm", *normal)
        for name in ("query", "key", "value", "out"):
            take(f"{block}.{name}", f"{source}.0.fn.1.{name}", "bias")
            state[f"{block}.{name}.weight"] = next(matrices)
        for name, number in (("up", 0), ("down", 3)):
            take(f"{block}.{name}", f"{source}.1.fn.1.{number}", "bias")
            state[f"{block}.{name}.weight"] = next(matrices)
    counts = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    network.load_state_dict(state | {name: torch.tensor(0) for name in counts})
    return network
