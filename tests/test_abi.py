"""custom_ops/ort_abi.h says what ONNX Runtime's own header says."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CUSTOM_OPS = Path(__file__).parents[1] / "custom_ops"
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "ort_abi.json").read_text(encoding="utf-8")
)
HEADER = "onnxruntime_c_api.h"
HEADER_FOLDERS = [
    Path("/usr/include/onnxruntime"),
    Path("/usr/include/onnxruntime/core/session"),
    Path("/usr/local/include/onnxruntime"),
]


def ort_abi() -> str:
    """Return our header without comments and namespace prefixes."""
    text = (CUSTOM_OPS / "ort_abi.h").read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*", "", text).replace("std::", "")


def declared_members(struct: str) -> list[dict[str, str]]:
    """Return the members of a struct in our header, in order."""
    body = re.search(rf"struct {struct} {{(.*?)\n}};", ort_abi(), re.DOTALL)
    assert body is not None
    members = []
    for declaration in body[1].split(";")[:-1]:
        if match := re.fullmatch(
            r"\s*(.+)\(ONNXFIT_ORT_CALL\* (\w+)\)\((.*)\)", declaration, re.DOTALL
        ):
            members.append({"name": match[2], "signature": f"{match[1]}({match[3]})"})
        else:
            kind, name = declaration.split()
            members.append({"name": name, "signature": kind})
    return members


def header_folder() -> Path | None:
    """Find ONNX Runtime's header, under ONNXFIT_ORT_ROOT or where the system has it."""
    named = os.environ.get("ONNXFIT_ORT_ROOT")
    folders = [Path(named) / "include"] if named else HEADER_FOLDERS
    return next((folder for folder in folders if (folder / HEADER).is_file()), None)


def test_slots_are_those_recorded() -> None:
    """Each OrtApi slot has the recorded index and signature."""
    slots = [
        {"index": int(index), "name": name, "signature": signature}
        for index, signature, name in re.findall(r"Slot<(\d+), (.+)> (\w+);", ort_abi())
    ]

    assert RECORDED["OrtApi"] == slots


@pytest.mark.parametrize("struct", ["OrtApiBase", "OrtCustomOp"])
def test_structs_are_those_recorded(struct: str) -> None:
    """Each struct has the recorded members, in the recorded order."""
    assert RECORDED[struct] == declared_members(struct)


def test_constants_are_those_recorded() -> None:
    """Each enumerator has the recorded value, and the version asked for is the recorded one."""
    constants = {
        name: int(value) for name, value in re.findall(r"^  (\w+) = (-?\d+),", ort_abi(), re.M)
    }
    version = re.search(r"kApiVersion = (\d+);", ort_abi())

    assert RECORDED["constants"] == constants
    assert version is not None
    assert RECORDED["api_version"] == int(version[1])


def test_build_info_names_the_same_version() -> None:
    """The library's build info reports the API version that the header asks for."""
    template = (CUSTOM_OPS / "build_info.cc.in").read_text(encoding="utf-8")

    assert f'"ort_api_version": {RECORDED["api_version"]},' in template


def comparison() -> str:
    """Write a C++ program that compiles only if our header agrees with the official one."""
    opaque = re.findall(r"^struct (Ort\w+);", ort_abi(), re.M)
    enums = re.findall(r"^enum (\w+) :", ort_abi(), re.M)
    named = [*opaque, *enums, "OrtApi", "OrtApiBase", "OrtCustomOp"]
    lines = [
        "#include <cstddef>",
        "#include <type_traits>",
        f"#include <{HEADER}>",
        '#include "ort_abi.h"',
        "namespace ours = onnxfit::ort;",
        # Official<T> is T with each of our types replaced by ONNX Runtime's, without noexcept.
        "template <class T> struct Official { using Type = T; };",
        "template <class T> using OfficialType = typename Official<T>::Type;",
        "template <class T> struct Official<T*> { using Type = OfficialType<T>*; };",
        "template <class T> struct Official<const T> { using Type = const OfficialType<T>; };",
        "template <class R, class... A> struct Official<R(A...)>"
        " { using Type = OfficialType<R>(OfficialType<A>...); };",
        "template <class R, class... A> struct Official<R(A...) noexcept> : Official<R(A...)> {};",
        *(
            f"template <> struct Official<ours::{name}> {{ using Type = ::{name}; }};"
            for name in named
        ),
        "template <class Ours, class Theirs> constexpr bool same ="
        " std::is_same_v<OfficialType<Ours>, OfficialType<Theirs>>;",
    ]
    for name in (slot["name"] for slot in RECORDED["OrtApi"]):
        slot = f"std::remove_const_t<decltype(ours::{name})>"
        lines += [
            f"static_assert({slot}::kIndex * sizeof(void*) == offsetof(::OrtApi, {name}));",
            f"static_assert(same<{slot}::Function, decltype(::OrtApi::{name})>);",
        ]
    for struct in ("OrtApiBase", "OrtCustomOp"):
        for name in (member["name"] for member in RECORDED[struct]):
            lines += [
                f"static_assert(offsetof(ours::{struct}, {name}) == offsetof(::{struct}, {name}));",
                f"static_assert(same<decltype(ours::{struct}::{name}),"
                f" decltype(::{struct}::{name})>);",
            ]
    for name in RECORDED["constants"]:
        lines.append(f"static_assert(int{{ours::{name}}} == static_cast<int>(::{name}));")
    lines += [f"static_assert(sizeof(ours::{name}) == sizeof(::{name}));" for name in enums]
    return "\n".join([*lines, ""])


def compile_comparison(header: Path, ours: Path, program: Path) -> subprocess.CompletedProcess[str]:
    """Compile the comparison against the official header in one folder and ours in another."""
    program.write_text(comparison(), encoding="utf-8")
    command: list[str | Path] = [
        "g++",
        "-std=c++17",
        "-fsyntax-only",
        "-w",
        "-isystem",
        header,
        "-I",
        ours,
        program,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def official() -> Path:
    """Return the folder of ONNX Runtime's header; skip where there is none or no compiler."""
    folder = header_folder()
    if folder is None:
        pytest.skip(f"no {HEADER} here; ONNXFIT_ORT_ROOT names a folder whose include/ has it")
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    return folder


def test_header_agrees_with_the_official_one(official: Path, tmp_path: Path) -> None:
    """Offsets, function types and enumerators are those of the official header."""
    compiled = compile_comparison(official, CUSTOM_OPS, tmp_path / "compare.cc")

    assert 0 == compiled.returncode, compiled.stderr


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [
        pytest.param("Slot<88, ", "Slot<89, ", id="index"),
        pytest.param("const char*, float*)> K", "const char*, double*)> K", id="argument"),
        pytest.param(
            "  int(ONNXFIT_ORT_CALL* GetStartVersion)", "  long(*GetStartVersion)", id="result"
        ),
        pytest.param("ORT_FAIL = 1", "ORT_FAIL = 3", id="constant"),
    ],
)
def test_comparison_finds_a_mistake(
    official: Path, tmp_path: Path, declared: str, wrong: str
) -> None:
    """A header with one wrong index, type or value does not compile with the official one."""
    text = (CUSTOM_OPS / "ort_abi.h").read_text(encoding="utf-8")
    assert declared in text
    (tmp_path / "ort_abi.h").write_text(text.replace(declared, wrong), encoding="utf-8")

    compiled = compile_comparison(official, tmp_path, tmp_path / "compare.cc")

    assert "static assertion failed" in compiled.stderr
