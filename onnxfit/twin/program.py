"""The twin's code: steps in a row, written out as one Python function.

``print(twin.source)`` shows it. A step is one line, so that an error is traced to its node.
"""

import keyword
import linecache
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any

import torch

from onnxfit.twin.values import Constant, Variable

_serial = count()


@dataclass(eq=False)
class Step:
    """A call of a function: ``results = function(*args, **kwargs)``.

    Attributes:
        args: Values, blocks, and Python literals, in lists and tuples too.
        results: One variable for each result; ``single`` tells that the function returns it bare.
        node: The node it belongs to, in words.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Variable]
    single: bool
    node: str


@dataclass(eq=False)
class Block:
    """A graph, or the body of a control flow operator: it sees the values around it."""

    inputs: list[Variable] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def drop_unused(self) -> None:
        """Take out the steps that nothing reads."""
        used = {id(value) for value in leaves(self.outputs)}
        kept = []
        for step in reversed(self.steps):
            if any(id(result) in used for result in step.results):
                kept.append(step)
                used |= {id(value) for value in reads(step)}
        self.steps = kept[::-1]


class Program:
    """A block as a Python function whose first argument is the twin.

    Args:
        block: The steps of the main graph.
        paths: The attribute path in the twin of each weight, constant tensor and module, by id.
    """

    def __init__(self, block: Block, paths: Mapping[int, str]) -> None:
        writer = _Writer(paths)
        writer.block(block, "forward", ["self"])
        self.source = "\n".join(writer.lines) + "\n"
        self.names = writer.namespace
        self.nodes = writer.nodes
        self._compile()

    def _compile(self) -> None:
        self._file = f"<onnxfit twin {next(_serial)}>"
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self._file] = (len(self.source), None, lines, self._file)
        namespace = {"torch": torch, **self.names}
        exec(compile(self.source, self._file, "exec"), namespace)
        self.run: Callable[..., Any] = namespace["forward"]

    def node_of(self, traceback: TracebackType | None) -> str:
        """Return the innermost node that was being computed when an error came up, in words."""
        found = ""
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == self._file:
                found = self.nodes.get(traceback.tb_lineno, found)
            traceback = traceback.tb_next
        return found

    def __deepcopy__(self, _: dict[int, Any]) -> "Program":
        """Return the program itself: it never changes."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled function, which cannot be pickled."""
        return {"source": self.source, "names": self.names, "nodes": self.nodes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compile the function again."""
        self.__dict__.update(state)
        self._compile()

    def __del__(self) -> None:
        """Forget the lines that error messages quote."""
        linecache.cache.pop(getattr(self, "_file", ""), None)


def leaves(argument: Any) -> Iterator[Any]:
    """Yield what an argument holds, lists, tuples and dictionaries opened."""
    if isinstance(argument, (list, tuple)):
        for item in argument:
            yield from leaves(item)
    elif isinstance(argument, dict):
        yield from leaves(list(argument.values()))
    else:
        yield argument


def reads(step: Step) -> Iterator[Any]:
    """Yield the values that a step reads, those its blocks see outside included."""
    for leaf in leaves([step.args, step.kwargs]):
        if isinstance(leaf, Block):
            yield from _reads_outside(leaf)
        else:
            yield leaf


def _reads_outside(block: Block) -> Iterator[Any]:
    """Yield the values that a block reads and does not make itself."""
    own = {id(value) for value in block.inputs}
    own |= {id(value) for step in block.steps for value in step.results}
    for value in (*(v for step in block.steps for v in reads(step)), *leaves(block.outputs)):
        if id(value) not in own:
            yield value


class _Writer:
    """Writes blocks as Python source, and collects the names that the source refers to."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        self.lines: list[str] = []
        self.nodes: dict[int, str] = {}
        self.namespace: dict[str, Any] = {}
        self._paths = paths
        self._names: dict[int, str] = {}
        self._bound: dict[int, str] = {}
        self._numbers = count()

    def block(self, block: Block, name: str, first: list[str], indent: str = "") -> None:
        parameters = [*first, *(self._name(value) for value in block.inputs)]
        self.lines.append(f"{indent}def {name}({', '.join(parameters)}):")
        inner = indent + "    "
        last = _last_uses(block)
        for index, step in enumerate(block.steps):
            self._step(step, [self._name(value) for value in last[index]], inner)
        returned = [self._expression(value) for value in block.outputs]
        single = first and len(returned) == 1
        self.lines.append(f"{inner}return {returned[0] if single else _tuple(returned)}")

    def _step(self, step: Step, unused: list[str], indent: str) -> None:
        for leaf in leaves([step.args, step.kwargs]):
            if isinstance(leaf, Block):
                self._names[id(leaf)] = f"body{next(self._numbers)}"
                self.block(leaf, self._names[id(leaf)], [], indent)
        arguments = [self._expression(argument) for argument in step.args]
        arguments += [f"{key}={self._expression(value)}" for key, value in step.kwargs.items()]
        call = f"{self._bind(step.function)}({', '.join(arguments)})"
        results = [self._name(value) for value in step.results]
        line = f"{results[0] if step.single else _tuple(results)} = {call}"
        if unused:
            line += f"; del {', '.join(unused)}"
        self.lines.append(indent + line)
        self.nodes[len(self.lines)] = step.node

    def _name(self, value: Variable) -> str:
        return self._names.setdefault(id(value), f"v{len(self._names)}")

    def _expression(self, argument: Any) -> str:
        known = self._paths.get(id(argument))
        if known is not None:
            return _attribute("self", known)
        match argument:
            case Variable():
                written = self._name(argument)
            case Block():
                written = self._names[id(argument)]
            case Constant():
                written = self._expression(argument.value)
            case tuple():
                written = _tuple([self._expression(item) for item in argument])
            case list():
                written = f"[{', '.join(self._expression(item) for item in argument)}]"
            case torch.dtype():
                written = str(argument)
            case _ if _is_literal(argument):
                written = repr(argument)
            case _:
                written = self._bind(argument)
        return written

    def _bind(self, thing: Any) -> str:
        """Give a function or another object a name that the source can use."""
        if id(thing) not in self._bound:
            wanted = getattr(thing, "__name__", type(thing).__name__.lower()).strip("<>")
            name, numbers = wanted, count(2)
            while name in self.namespace or name == "torch":
                name = f"{wanted}_{next(numbers)}"
            self.namespace[name] = thing
            self._bound[id(thing)] = name
        return self._bound[id(thing)]


def _last_uses(block: Block) -> list[list[Variable]]:
    """List for each step the variables of the block that nothing reads after it."""
    owned = {id(value): value for value in block.inputs}
    for step in block.steps:
        owned.update((id(value), value) for value in step.results)
    for value in leaves(block.outputs):
        owned.pop(id(value), None)
    found: list[list[Variable]] = []
    for step in reversed(block.steps):
        seen = [id(value) for value in (*reads(step), *step.results)]
        found.append([owned.pop(key) for key in dict.fromkeys(seen) if key in owned])
    return found[::-1]


def _is_literal(thing: Any) -> bool:
    """Tell whether a thing's ``repr`` is Python for it."""
    finite = type(thing) is float and math.isfinite(thing)
    return thing is None or type(thing) in (bool, int, str) or finite


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _attribute(owner: str, path: str) -> str:
    """Write the access to an attribute path whose parts need not be identifiers."""
    for part in path.split("."):
        plain = part.isascii() and part.isidentifier() and not keyword.iskeyword(part)
        owner = f"{owner}.{part}" if plain else f"getattr({owner}, {part!r})"
    return owner
