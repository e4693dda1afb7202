"""What do the CUDA kernels use of a GPU, according to the compiler and its machine code?

Needs nvcc and cuobjdump, no GPU. For each architecture: registers, spills and local memory of
every kernel as ``ptxas -v`` reports them; the loads and stores of 16 bytes in its machine code and
the accesses to local memory, which there must be none of; how many bytes per element those loads
and stores move; and how many bytes of loads can be under way at once on a multiprocessor.

    python benchmarks/cuda_resources.py [--architectures 75 80 90 100] [--write]

Exit status: 0 done, 1 a kernel is not as it has to be, 3 no compiler or no cuobjdump.
"""

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "custom_ops" / "jump_relu.cu"
RESULTS = Path(__file__).parent / "results"
ARCHITECTURES = [75, 80, 90, 100]
PACK_BYTES = 16
THREADS_IN_A_BLOCK = int(
    re.findall(r"int kThreads = (\d+);", SOURCE.read_text(encoding="utf-8"))[0]
)
REGISTERS = 65536
RESIDENT_THREADS = {75: 1024, 86: 1536, 89: 1536, 120: 1536}
TYPES = {
    "f": ("float", 4),
    "d": ("double", 8),
    "7Float16": ("float16", 2),
    "8BFloat16": ("bfloat16", 2),
}
SYMBOL = re.compile(
    r"JumpReluKernelILi(\d)E(?:([fd])|NS_(\d+B?Float16)E).*?(Plain|Sum)InputI.*?(SameJump|OwnJumps)I"
    r"(?:[fd]|S\d?_)([jm]?)E"
)
RESOURCES = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


class ToolMissingError(Exception):
    """A program that this script calls is not installed."""


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Attributes:
        operator: JumpReLU or AddJumpReLU.
        dtype: Type of the elements.
        jumps: ``one`` for all elements, or ``own`` for J broadcast along X, with the bits of its
            indices.
        architecture: Compute capability times ten.
        packs: How many packs of 16 bytes a thread computes.
        element_bytes: Size of an element.
        registers: Registers of a thread.
        local_bytes: Stack frame and spills of a thread.
        opcodes: Machine instructions in order, without their operands.
    """

    operator: str
    dtype: str
    jumps: str
    architecture: int
    packs: int
    element_bytes: int
    registers: int
    local_bytes: int
    opcodes: tuple[str, ...]

    @property
    def inputs(self) -> int:
        """Return how many tensors of X's size are read."""
        return 2 if self.operator == "AddJumpReLU" else 1

    def count(self, *starts: str) -> int:
        """Count the instructions whose names start so."""
        return sum(opcode.startswith(starts) for opcode in self.opcodes)

    @property
    def wide_loads(self) -> int:
        """Count the loads of 16 bytes from device memory."""
        return sum(o.startswith("LDG") and ".128" in o for o in self.opcodes)

    @property
    def wide_stores(self) -> int:
        """Count the stores of 16 bytes to device memory."""
        return sum(o.startswith("STG") and ".128" in o for o in self.opcodes)

    @property
    def local_accesses(self) -> int:
        """Count the accesses to local memory, and calls, which could need it."""
        return self.count("LDL", "STL", "CALL")

    @property
    def jump_loads(self) -> int:
        """Count the loads of 16 bytes that are left for J, once the inputs have theirs."""
        return self.wide_loads - self.inputs * self.packs

    @property
    def moved(self) -> float:
        """Return the bytes per element that the packed inputs and the packed result take."""
        packs = self.inputs * self.packs + self.wide_stores
        return packs * PACK_BYTES / (self.packs * PACK_BYTES / self.element_bytes)

    @property
    def in_flight(self) -> int:
        """Return the bytes that all resident threads of a multiprocessor load at once."""
        registers = -(-self.registers // 8) * 8 * THREADS_IN_A_BLOCK
        resident = RESIDENT_THREADS.get(self.architecture, 2048) // THREADS_IN_A_BLOCK
        threads = min(REGISTERS // registers, resident) * THREADS_IN_A_BLOCK
        return threads * self.inputs * self.packs * PACK_BYTES

    @property
    def figures(self) -> dict[str, Any]:
        """Return what is written of a kernel, by the heads of the table."""
        return {
            "operator": self.operator,
            "type": self.dtype,
            "jumps": self.jumps,
            "registers": self.registers,
            "spills, stack, LDL, STL": self.local_bytes + self.local_accesses,
            "LDG.128: inputs": self.inputs * self.packs,
            "LDG.128: J": self.jump_loads,
            "STG.128": self.wide_stores,
            "bytes per element": self.moved,
            "KiB in flight per multiprocessor": self.in_flight // 1024,
            "instructions": len(self.opcodes),
        }

    def faults(self) -> list[str]:
        """List what is not as it has to be."""
        checks = {
            "local memory": self.local_bytes == 0 and self.local_accesses == 0,
            "loads of 16 bytes": self.jump_loads == (0 if self.jumps == "one" else self.packs),
            "stores of 16 bytes": self.wide_stores == self.packs,
            "bytes per element": self.moved == (self.inputs + 1) * self.element_bytes,
        }
        return [name for name, right in checks.items() if not right]


def tool(name: str) -> str:
    """Find a program on the PATH, beside nvcc or in Triton's package."""
    places: list[str | None] = [None]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        places.append(str(Path(nvcc).resolve().parent))
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    for place in places:
        found = shutil.which(name, path=place)
        if found is not None:
            return found
    raise ToolMissingError(f"no {name} here")


def compile_kernels(architecture: int, source: Path = SOURCE) -> list[Kernel]:
    """Compile the kernels for one architecture and read what came out.

    Args:
        architecture: Compute capability times ten, as in sm_90.
        source: The file to compile, with its headers beside it.

    Raises:
        ToolMissingError: nvcc or cuobjdump is not installed.
    """
    nvcc, cuobjdump = tool("nvcc"), tool("cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        flags = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v"]
        report = output(nvcc, *flags, "-o", str(cubin), str(source))
        listing = output(cuobjdump, "-sass", str(cubin))
    code = {
        part.split("\n", 1)[0].strip(): tuple(INSTRUCTION.findall(part))
        for part in listing.split("Function : ")[1:]
    }
    kernels = [
        kernel(symbol, architecture, (int(registers), sum(map(int, local))), code[symbol])
        for symbol, *local, registers in RESOURCES.findall(report)
    ]
    return sorted(kernels, key=lambda k: (k.operator, k.element_bytes, k.dtype, k.jumps))


def output(*command: str) -> str:
    """Run a program and return all that it printed."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{ran.stderr}")
    return ran.stdout + ran.stderr


def kernel(
    symbol: str, architecture: int, resources: tuple[int, int], opcodes: tuple[str, ...]
) -> Kernel:
    """Make a kernel from its symbol, its registers and bytes of local memory, and its code."""
    match = SYMBOL.search(symbol)
    assert match is not None, symbol
    packs, number, sixteen_bit, source, jumps, index = match.groups()
    dtype, element_bytes = TYPES[number or sixteen_bit]
    return Kernel(
        operator="AddJumpReLU" if source == "Sum" else "JumpReLU",
        dtype=dtype,
        jumps={"SameJump": "one", "OwnJumps": "own, 64-bit" if index == "m" else "own, 32-bit"}[
            jumps
        ],
        architecture=architecture,
        packs=int(packs),
        element_bytes=element_bytes,
        registers=resources[0],
        local_bytes=resources[1],
        opcodes=opcodes,
    )


def table(kernels: list[Kernel]) -> list[str]:
    """Return the table of one architecture, as Markdown."""
    rows = [each.figures for each in kernels]
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = [f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


NOTE = """\
A kernel moves each element of an input and of the result once, in accesses of 16 bytes: 2 elements'
bytes for JumpReLU, 3 for AddJumpReLU, which is what a copy of as many bytes moves. J comes on top
only where every element has a jump of its own; jumps per channel stay in the caches. Accesses of
single elements are there too, for the elements behind the last whole 16 bytes, for tensors that do
not start at a multiple of 16 bytes and for J where its rows do not. *KiB in flight* is what the
loads of all threads that fit on a multiprocessor ask for before the first of them waits. By
Little's law a copy at 4.8 TB/s, half of it read, with a latency of 1 µs keeps 18 KiB in flight on
each of 132 multiprocessors. *Instructions* is the length of the whole code, all paths together.
""".replace("\n", " ").strip()


def environment() -> dict[str, str]:
    """Return what the figures depend on."""
    version = re.search(r"release ([\d.]+)", output(tool("nvcc"), "--version"))
    assert version is not None
    command = "python benchmarks/cuda_resources.py --write"
    return {"command": command, "nvcc": version[1], "optimisation": "-O3"}


def document(kernels: dict[int, list[Kernel]], here: dict[str, str]) -> list[str]:
    """Return the whole report."""
    lines = ["# What the CUDA kernels use", "", f"`{here['command']}`"]
    lines += [f"with nvcc {here['nvcc']} and `{here['optimisation']}`; no GPU is needed.", "", NOTE]
    for architecture, some in kernels.items():
        lines += ["", f"## sm_{architecture}", "", *table(some)]
    return lines


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    try:
        kernels = {number: compile_kernels(number) for number in options.architectures}
        here = environment()
    except ToolMissingError as error:
        print(f"cuda_resources.py: {error}", file=sys.stderr)
        return 3
    lines = document(kernels, here)
    print("\n".join(lines))
    faults = [
        f"sm_{number}: {each.operator} {each.dtype}, jumps {each.jumps}: {', '.join(each.faults())}"
        for number, some in kernels.items()
        for each in some
        if each.faults()
    ]
    for fault in faults:
        print(fault, file=sys.stderr)
    if options.write and not faults:
        RESULTS.joinpath("cuda_resources.md").write_text("\n".join([*lines, ""]), "utf-8")
        rows = {f"sm_{number}": [e.figures for e in some] for number, some in kernels.items()}
        text = json.dumps({"environment": here, "kernels": rows}, indent=1)
        RESULTS.joinpath("cuda_resources.json").write_text(text + "\n", "utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
