"""Builds the programs that check the C++ sources, compiling the same text only once."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from support import ROOT

CUSTOM_OPS = ROOT / "custom_ops"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

Check = Literal["check_jump_relu", "check_cpu", "check_cuda"]
Printed = subprocess.CompletedProcess[str]

KERNELS = ["broadcast.cc", "cpu_avx2.cc", "cpu_avx512.cc", "cpu_baseline.cc", "cpu_dispatch.cc"]
FILES: dict[Check, list[str]] = {
    "check_jump_relu": ["check_jump_relu.cc", "library.cc", *KERNELS],
    "check_cpu": ["check_cpu.cc", *KERNELS],
    "check_cuda": ["check_cuda.cc", "broadcast.cc"],
}
LANGUAGE = ["-std=c++17", "-Icuda_stand_in", "-pthread"]
WARNINGS = ["-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def tool(*names: str) -> str:
    """Return the path of the first of these programs that is installed; skip if none is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(names)} here")
    return found


def cpu_features() -> set[str]:
    """Return what Linux says this processor can; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", path.read_text(), re.M) if path.exists() else None
    return set(flags[1].split()) if flags else set()


def paths_here() -> list[str]:
    """Return the instruction sets that this processor has kernels for, the narrowest first."""
    needs = {"baseline": set[str](), "avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512bw"}}
    return [name for name, features in needs.items() if features <= cpu_features()]


def replace(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there in a source file."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


class Mistake(NamedTuple):
    """What a check should find: a text of a source file, and what stands there instead."""

    file: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Drivers:
    """Check drivers, and what was compiled for earlier ones.

    Attributes:
        objects: Folder of compiled files, each named after its text and flags.
        compiler: What compiles them.
        emulator: What runs programs for another processor; nothing for those of this one.
    """

    objects: Path
    compiler: str = field(default_factory=partial(tool, "g++"))
    emulator: Sequence[str] = ()

    def run(
        self, sources: Path, check: Check, *flags: str, defines: str = "", cuda: bool = False
    ) -> Printed:
        """Build a check from the sources in a folder, and run it.

        Args:
            sources: The folder, a copy of ``custom_ops``.
            check: Which.
            flags: For compiler and linker.
            defines: A definition for the preprocessor.
            cuda: With the CUDA kernels as plain C++, their threads one after the other.
        """
        files = FILES[check] + ["jump_relu.cu"] * cuda
        definitions = [f"-D{defines}"] * bool(defines) + ["-DONNXFIT_WITH_CUDA"] * cuda
        with ThreadPoolExecutor(2) as pool:
            objects = pool.map(partial(self._object, sources, definitions, flags), files)
            link = [
                self.compiler,
                "-pthread",
                *flags,
                *map(str, objects),
                "-o",
                str(sources / check),
            ]
        subprocess.run(link, check=True)
        program = [*self.emulator, str(sources / check)]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    def missed(
        self, folder: Path, check: Check, mistakes: Sequence[Mistake], *, cuda: bool = False
    ) -> list[Mistake]:
        """Return the mistakes that a check, under the sanitizers, does not find.

        Args:
            folder: For copies of the sources, each with a mistake.
            check: Which.
            mistakes: What to find.
            cuda: As for :meth:`run`.
        """

        def passes(mistake: Mistake) -> bool:
            sources = folder / f"{mistakes.index(mistake)}"
            shutil.copytree(CUSTOM_OPS, sources)
            replace(sources / mistake.file, mistake.right, mistake.wrong)
            return self.run(sources, check, "-O0", *SANITIZERS, cuda=cuda).returncode == 0

        with ThreadPoolExecutor(2) as pool:
            passed = list(pool.map(passes, mistakes))
        return list(compress(mistakes, passed))

    def _object(
        self, sources: Path, definitions: Sequence[str], flags: Sequence[str], file: str
    ) -> Path:
        """Compile a file, unless its text with all that it includes was compiled before."""
        source = [*LANGUAGE, *definitions, "-xc++", file]
        text = subprocess.check_output([self.compiler, "-E", *source], cwd=sources)
        key = hashlib.sha256(b"\0".join([text, *map(str.encode, flags)])).hexdigest()
        compiled = self.objects / f"{key}.o"
        if not compiled.exists():
            new = sources / f"{file}.o"
            command = [self.compiler, *WARNINGS, *flags, *source, "-c", "-o", new.name]
            subprocess.run(command, cwd=sources, check=True)
            # At once, for another thread may want it too.
            new.replace(compiled)
        return compiled
