"""Arithmetic on shapes: without any tensor, beside ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, compiled, parse  # noqa: E402

from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

# What ends in a node on images in a batch, whose other input is computed out of their shape.
CHAINS = {
    "Gather, Unsqueeze, Concat": """
        s = Shape (x) i = Constant <value_int = 0> () n = Gather (s, i)
        a = Constant <value_ints = [0]> () u = Unsqueeze (n, a)
        r = Constant <value_ints = [-1]> () t = Concat <axis = 0> (u, r) y = Reshape (x, t)""",
    "Gather of a row": """
        s = Shape (x) i = Constant <value_ints = [0, -1, 1, 2]> () t = Gather (s, i)
        y = Reshape (x, t)""",
    "Slice": """
        s = Shape (x) a = Constant <value_ints = [0]> () b = Constant <value_ints = [2]> ()
        f = Slice (s, a, b, a) r = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (f, r) y = Reshape (x, t)""",
    "Slice backwards": """
        s = Shape (x) a = Constant <value_ints = [-1]> () b = Constant <value_ints = [-99]> ()
        z = Constant <value_ints = [0]> () t = Slice (s, a, b, z, a) y = Reshape (x, t)""",
    "Split": """
        s = Shape (x) n, c, h, w = Split (s) t = Concat <axis = 0> (c, n, w, h)
        y = Reshape (x, t)""",
    "Split with sizes": """
        s = Shape (x) k = Constant <value_ints = [1, 3]> () n, r = Split (s, k)
        t = Concat <axis = 0> (r, n) y = Reshape (x, t)""",
    "Squeeze": """
        s = Shape <start = 1, end = 2> (x) c = Squeeze (s) a = Constant <value_ints = [0]> ()
        u = Unsqueeze (c, a) r = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (r, u) y = Reshape (x, t)""",
    "ReduceProd": """
        s = Shape <start = 1> (x) p = ReduceProd <keepdims = 1> (s)
        r = Constant <value_ints = [-1]> () t = Concat <axis = 0> (r, p) y = Reshape (x, t)""",
    "Size and Div": """
        s = Shape <start = 0, end = 1> (x) k = Size (x) d = Div (k, s)
        t = Concat <axis = 0> (s, d) y = Reshape (x, t)""",
    "Reshape to a row": """
        k = Size (x) r = Constant <value_ints = [1]> () t = Reshape (k, r) y = Reshape (x, t)""",
    "Reshape to a number": """
        s = Shape <start = 0, end = 1> (x) e = Constant <value_ints: ints = []> ()
        n = Reshape (s, e) a = Constant <value_ints = [0]> () u = Unsqueeze (n, a)
        r = Constant <value_ints = [-1]> () t = Concat <axis = 0> (u, r) y = Reshape (x, t)""",
    "ConstantOfShape, Equal, Where, Expand": """
        s = Shape (x) r = Shape (s) one = ConstantOfShape <value = int64[1] {1}> (r)
        m = Constant <value_int = 2> () e = Equal (s, m) t = Where (e, s, s)
        f = ReduceMax (x) o = Mul (one, t) y = Expand (f, o)""",
    "Expand and Tile of a row": """
        s = Shape <start = 0, end = 1> (x) k = Constant <value_ints = [2]> ()
        two = Expand (s, k) d = Constant <value_ints = [1, 1]> () o = Concat <axis = 0> (d, two)
        t = Tile (s, k) same = Equal (t, two) pads = Where (same, t, two)
        z = Constant <value_ints = [0, 0]> () p = Concat <axis = 0> (z, pads, z, pads)
        y = Pad (x, p)""",
    "the pads of PyTorch's exporter": """
        s = Shape <start = 2> (x) z = Constant <value_ints = [0, 0, 0, 0, 0, 0]> ()
        p = Concat <axis = 0> (s, z) k = Constant <value_ints = [-1, 2]> () m = Reshape (p, k)
        a = Constant <value_ints = [-1]> () b = Constant <value_ints = [-9223372036854775807]> ()
        o = Constant <value_ints = [0]> () q = Slice (m, a, b, o, a) t = Transpose (q)
        f = Reshape (t, a) c = Cast <to = 7> (f) y = Pad (x, c)""",
}


def model(chain: str) -> str:
    """Write a model with a chain of nodes."""
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[N, C, H, W] x) => (float y)'
    return f"{header} {{ {chain} }}"


def images(*shape: int) -> Any:
    """Draw images."""
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("name", CHAINS)
def test_shapes_are_computed_without_tensors(name: str) -> None:
    """Other sizes give other shapes, and one graph of PyTorch holds it all."""
    twin = agrees(model(CHAINS[name]), images(2, 3, 4, 5))
    agrees(model(CHAINS[name]), images(5, 1, 2, 4))
    assert "tensor_of" not in twin.source
    assert "to_host" not in twin.source
    one_graph = compiled(twin)
    for shape in ((2, 3, 4, 5), (3, 2, 4, 4)):
        x = torch.from_numpy(images(*shape))
        assert torch.equal(twin(x), one_graph(x))


def test_a_shape_that_is_an_output_is_a_tensor() -> None:
    """Of the type of the file."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, M] x) => (int32[2] y, bool b) {
        s = Shape (x) y = Cast <to = 6> (s) i = Constant <value_int = 0> ()
        n = Gather (s, i) m = Constant <value_int = 2> () b = Less (n, m)
    }"""
    agrees(text, images(3, 4))


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (
            """s = Shape (x) a = Constant <value_ints = [0]> () n = Squeeze (s, a)
            u = Unsqueeze (n, a) y = Reshape (x, u)""",
            "dimension 0 to take out is 4, not 1",
        ),
        (
            """s = Shape (x) k = Constant <value_ints = [3]> () t = Reshape (s, k)
            y = Reshape (x, t)""",
            "4 numbers do not make a row of 3",
        ),
    ],
)
def test_a_row_of_another_length_is_an_error(chain: str, message: str) -> None:
    """As it is for tensors."""
    with pytest.raises(ModelError, match=message):
        to_torch(parse(model(chain)))(torch.zeros(2, 3, 4, 5))


def test_a_table_of_numbers_is_looked_up() -> None:
    """A constant row at a place that the shape gives, and a float of the shape."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, M] x) => (float y) {
        s = Shape (x) i = Constant <value_int = 0> () n = Gather (s, i)
        table = Constant <value_ints = [7, 5, 3, 1]> () k = Gather (table, n)
        f = Cast <to = 1> (k) y = Mul (x, f)
    }"""
    for rows in (1, 2, 3):
        agrees(text, images(rows, 4))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Mul(s, big)",
        "t = Add(big, big) y = Sub(t, s)",
        "t = Add(big, big) n = Neg(t) y = Abs(n)",
        "t = Mul(s, big) z = Sub(s, s) y = Less(t, z)",
        "t = Add(big, s) y = Cast<to = 6>(t)",
    ],
)
def test_integers_wrap_as_those_of_the_file_do(nodes: str) -> None:
    """Into 64 bits, or 32."""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, M] x) => (int64[2] y) {{
        s = Shape (x) big = Constant <value_ints = [4611686018427387904, 4611686018427387904]> ()
        {nodes}
    }}"""
    text = text.replace("int64[2] y", "bool[2] y" if "Less" in nodes else "int64[2] y")
    text = text.replace("int64[2] y", "int32[2] y" if "Cast" in nodes else "int64[2] y")
    agrees(text, images(3, 5))
