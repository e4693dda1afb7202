"""The C++ sources under the sanitizers, what their checks find, and what compilers make of them."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from check_drivers import (
    CUSTOM_OPS,
    SANITIZERS,
    Drivers,
    Mistake,
    cpu_features,
    paths_here,
    replace,
    tool,
)


@pytest.mark.slow
@pytest.mark.parametrize("cuda", [False, True], ids=["cpu", "cuda-stand-in"])
def test_sanitizers(sources: Path, drivers: Drivers, cuda: bool) -> None:
    """Every type, form, shape and failure runs clean under AddressSanitizer and UBSan."""
    checked = drivers.run(sources, "check_jump_relu", "-O1", *SANITIZERS, cuda=cuda)

    assert (0, "all checks passed\n", "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.slow
def test_kernels_under_sanitizers(sources: Path, drivers: Drivers) -> None:
    """The kernels of each instruction set, on every layout of J, read and write in bounds."""
    checked = drivers.run(sources, "check_cpu", "-O1", *SANITIZERS)

    expected = " ".join([*paths_here(), "checked\n"])
    assert (0, expected, "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.slow
def test_kernels_as_they_are_shipped(sources: Path, drivers: Drivers) -> None:
    """With all optimisations, which decide what is inlined and what registers are left in use."""
    checked = drivers.run(sources, "check_cpu", "-O3")

    assert (0, " ".join([*paths_here(), "checked\n"])) == (checked.returncode, checked.stdout)


@pytest.mark.slow
def test_kernels_for_other_processors(sources: Path, drivers: Drivers) -> None:
    """Where there are no x86 instructions to choose from, the baseline is right."""
    checked = drivers.run(sources, "check_cpu", "-O3", defines="ONNXFIT_X86_PATHS=0")

    assert (0, "baseline checked\n") == (checked.returncode, checked.stdout)


@pytest.mark.slow
def test_kernels_on_aarch64(sources: Path, tmp_path: Path) -> None:
    """With the vectors that a compiler makes of the baseline there, it is right."""
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64-static", "qemu-aarch64")
    checked = Drivers(tmp_path, compiler, [emulator]).run(sources, "check_cpu", "-O3", "-static")

    assert (0, "baseline checked\n") == (checked.returncode, checked.stdout)


@pytest.mark.parametrize("optimisation", ["-O0", "-O2"])
@pytest.mark.parametrize(
    ("file", "symbol"), [("cpu_avx2", "kAvx2Path"), ("cpu_avx512", "kAvx512Path")]
)
def test_wide_instructions_stay_in_their_file(
    file: str, symbol: str, optimisation: str, tmp_path: Path
) -> None:
    """No function that the linker might share with other files has a newer set's instructions."""
    compiled = tmp_path / "kernels.o"
    command = [tool("g++"), "-std=c++17", optimisation, "-c", f"{file}.cc", "-o", str(compiled)]
    subprocess.run(command, cwd=CUSTOM_OPS, check=True)
    symbols = [tool("nm"), "--demangle", "--defined-only", "--extern-only", str(compiled)]
    listed = subprocess.run(symbols, capture_output=True, text=True, check=True).stdout

    if "x86_64" not in subprocess.check_output([tool("g++"), "-dumpmachine"], text=True):
        pytest.skip("these files are empty for this processor")
    assert [f"onnxfit::{symbol}"] == [line.split()[-1] for line in listed.splitlines()]


LIBRARY_MISTAKES = [
    Mistake("library.cc", "    Add<Op<Definition, double, Provider>>();\n", ""),
    Mistake(
        "op_attributes.h", "ReleaseStatus(api, status)", 'CreateStatus(api, ort::ORT_FAIL, "")'
    ),
    Mistake("op_providers.h", "begin + size, run.count)", "begin + size, begin + size)"),
    Mistake("op_providers.h", "/ size + 1)", "/ size)"),
    Mistake("op_definitions.h", "/ block, 1, block}", "/ block, block}"),
    Mistake("op.h", "if (!(other == shape))", "if (false)"),
    Mistake("op.h", "info, kOperands)", "info, 1)"),
]


@pytest.mark.slow
def test_check_can_fail(tmp_path: Path, drivers: Drivers) -> None:
    """The check of the library finds each of these mistakes."""
    assert [] == drivers.missed(tmp_path, "check_jump_relu", LIBRARY_MISTAKES)


KERNEL_MISTAKES = [
    Mistake("jump_relu.h", "return x <= jump; }", "return x < jump; }"),
    Mistake("jump_relu.h", "-T::kInfinity <= x_key && ", ""),
    Mistake("jump_relu.h", " && jump_key <= T::kInfinity", ""),
    Mistake("jump_relu.h", "(bits >> 16 & 1)", "1"),
    Mistake("cpu_avx2.cc", "_CMP_LE_OQ", "_CMP_LT_OQ"),
    Mistake("cpu_avx2.cc", "(2 * T::kInfinity)", "(-1)"),
    Mistake("cpu_avx512.cc", "_CMP_NLE_UQ", "_CMP_GT_OQ"),
    Mistake("cpu_avx512.cc", "cmpge_epu16", "cmpgt_epu16"),
    Mistake("cpu_avx2.cc", "kToTop = 3;", "kToTop = 2;"),
    Mistake("cpu_avx512.cc", "2 * T::kInfinity + 1", "2 * T::kInfinity + 2"),
    Mistake("cpu_avx512.cc", "kSecondXorBothOthers = 0x6c", "kSecondXorBothOthers = 0x3c"),
    Mistake("cpu_vectors.h", "index + phase}", "index}"),
    Mistake("cpu_vectors.h", "at / size * kLanes % channels", "at / size % channels"),
    Mistake("cpu_vectors.h", "channel + tiles * kLanes;", "channel + kLanes;"),
    Mistake("cpu_vectors.h", "(channels - channel) / kLanes)", "channels / kLanes)"),
    Mistake("cpu_vectors.h", "Min(channels - channel, kLanes)", "kLanes"),
    Mistake("cpu_vectors.h", "memcpy(buffer + left, jumps,", "memcpy(buffer + left, buffer,"),
    Mistake("cpu_vectors.h", "next = channel + kLanes;", "next = channel + repeats;"),
    Mistake("cpu_vectors.h", "Rounds<true>(source, y, count, jumps)", "count"),
    Mistake("cpu_vectors.h", "end += repeats;", "end += repeats + 1;"),
    Mistake("cpu_vectors.h", "i + k < end ?", "true ?"),
    Mistake("cpu_vectors.h", "i % kCycle", "i % 2"),
    Mistake("cpu_vectors.h", "jumps.Any(at)", "jumps.Any(0)"),
    Mistake("cpu_vectors.h", "(phase + at) % length", "phase"),
    Mistake("cpu_vectors.h", "phase -= length", "phase = 0"),
    Mistake("cpu_baseline.cc", "part, jumps + phase", "part, jumps"),
    Mistake("cpu_walk.h", "length_ + kCycle", "length_"),
    Mistake("cpu_walk.h", "part, scratch_ + column", "part, scratch_"),
    Mistake("cpu_walk.h", "Repeat<Passes::kHasVectors>", "Repeat<false>"),
    Mistake("cpu_walk.h", "Passes::Prepare(scratch_, period);", ""),
    Mistake("cpu_walk.h", "alignas(64) T scratch_[kScratch + kCycle]", "T scratch_[9]"),
    Mistake("cpu_walk.h", "position_[run] = 0;", ""),
    Mistake("add.h", "(bits >> 16 & 1)) >> 16", "1) >> 16"),
]
# Found where processors tell which registers are in use.
REGISTER_MISTAKE = Mistake("cpu_walk.h", "  Passes::Leave();\n", "")


@pytest.mark.slow
def test_check_of_kernels_can_fail(tmp_path: Path, drivers: Drivers) -> None:
    """The check of the CPU kernels finds each of these mistakes that this processor would make."""
    elsewhere = {f"cpu_{path}.cc" for path in ("avx2", "avx512") if path not in paths_here()}
    mistakes = [mistake for mistake in KERNEL_MISTAKES if mistake.file not in elsewhere]
    if "avx2" in paths_here() and "xgetbv1" in cpu_features():
        mistakes.append(REGISTER_MISTAKE)

    assert [] == drivers.missed(tmp_path, "check_cpu", mistakes)


def compiler_for_x86() -> str:
    """Return a C++ compiler for x86-64; skip if there is none."""
    compiler = tool("g++")
    machine = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=True)
    if "x86_64" not in machine.stdout:
        pytest.skip("the kernels for newer instructions are empty for this processor")
    return compiler


@pytest.mark.parametrize("file", ["cpu_avx2", "cpu_avx512", "cpu_baseline"])
def test_nothing_is_computed_when_the_library_is_loaded(file: str, tmp_path: Path) -> None:
    """Code that runs then would have instructions that the processor may lack."""
    compiled = tmp_path / "kernels.o"
    command = [compiler_for_x86(), "-std=c++17", "-O0", "-c", f"{file}.cc", "-o", str(compiled)]
    subprocess.run(command, cwd=CUSTOM_OPS, check=True)
    listed = subprocess.run([tool("nm"), compiled], capture_output=True, text=True, check=True)

    assert "Path" in listed.stdout
    assert "_GLOBAL__sub_I" not in listed.stdout
    assert "__static_initialization" not in listed.stdout


@pytest.mark.parametrize("file", ["cpu_avx2", "cpu_avx512", "cpu_baseline"])
def test_a_path_that_must_be_computed_does_not_compile(file: str, sources: Path) -> None:
    """So that no change of the sources brings code that runs when the library is loaded."""
    command = [compiler_for_x86(), "-std=c++17", "-fsyntax-only", f"{file}.cc"]
    assert 0 == subprocess.run(command, cwd=sources, check=False).returncode
    replace(sources / "cpu_walk.h", "constexpr CpuPath PathOf", "CpuPath PathOf")

    refused = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "constexpr" in refused.stderr


SHOW_PATH = """
#include <cstdio>

#include "cpu_path.h"

namespace onnxfit {
const CpuPath kBaselinePath{{}, {}, {}, {}, "baseline"};
const CpuPath kAvx2Path{{}, {}, {}, {}, "avx2"};
const CpuPath kAvx512Path{{}, {}, {}, {}, "avx512"};
}  // namespace onnxfit

int main() { std::fputs(onnxfit::CpuPathInUse(), stdout); }
"""


def test_an_unknown_instruction_set_means_the_baseline(tmp_path: Path) -> None:
    """A limit that is misspelt is not lifted; without one the widest that is there is used."""
    (tmp_path / "show.cc").write_text(SHOW_PATH, encoding="utf-8")
    program = tmp_path / "show"
    files = [tmp_path / "show.cc", CUSTOM_OPS / "cpu_dispatch.cc"]
    command = [compiler_for_x86(), "-std=c++17", "-O0", f"-I{CUSTOM_OPS}", "-o", str(program)]
    subprocess.run([*command, *files], check=True)
    without = {k: v for k, v in os.environ.items() if k != "ONNXFIT_CPU_PATH"}

    def used(value: str | None) -> str:
        given = without if value is None else without | {"ONNXFIT_CPU_PATH": value}
        return subprocess.run(
            [program], env=given, capture_output=True, text=True, check=True
        ).stdout

    widest = paths_here()[-1]
    assert [widest, widest] == [used(None), used("")]
    assert paths_here() == [used(path) for path in paths_here()]
    assert ["baseline"] * 4 == [used(name) for name in ("AVX2", "avx", "avx10", "none")]


def test_the_baseline_has_vectors_on_aarch64() -> None:
    """Compared and selected by NEON instructions, for each width of an element."""
    command = [tool("aarch64-linux-gnu-g++"), "-std=c++17", "-O3", "-S", "-o", "-"]
    compiled = subprocess.run(
        [*command, "cpu_baseline.cc"], cwd=CUSTOM_OPS, capture_output=True, text=True, check=True
    ).stdout

    compared = set(re.findall(r"\t(fcm|cm)[a-z]+\tv\d+\.(\w+)", compiled))
    assert {("fcm", "4s"), ("fcm", "2d"), ("cm", "8h")} <= compared
    assert re.search(r"\t(?:bsl|bit|bif|bic|and)\tv\d+\.16b", compiled)
