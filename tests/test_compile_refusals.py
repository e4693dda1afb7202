"""What is not compiled, and where a compiled model does not run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from compile_support import HEAD, RESIDUAL, X, network, outputs
from onnx import ModelProto
from support import quiet, same_bits

import onnxfit
from onnxfit import native_library, runtime
from onnxfit.compilation.machine import check, this_machine
from onnxfit.compilation.record import COMPILED_KEY, recorded
from onnxfit.errors import ModelError, NativeLibraryError, OnnxfitError
from onnxfit.run_time_jumps import with_run_time_jumps


@pytest.fixture(scope="module")
def compiled() -> ModelProto:
    """Compile a residual network."""
    return onnxfit.compile(onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5))


def digest_of(model: ModelProto) -> str:
    """Return the digest of the hardened model that a compiled one was made of."""
    made = recorded(model)
    assert made is not None
    return str(made["hardened_sha256"])


def test_what_cannot_be_compiled_is_refused() -> None:
    """A plain model, and what is no model."""
    plain = network(HEAD + "g " + RESIDUAL)
    message = r"^the model is not hardened, so there is nothing that compiling would save$"
    with pytest.raises(ModelError, match=message):
        onnxfit.compile(plain)
    with pytest.raises(ModelError, match=r"^none\.onnx does not exist$"):
        onnxfit.compile("none.onnx")
    broken = onnxfit.retrofit(plain, 1.5)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        onnxfit.compile(broken)


@pytest.mark.parametrize(
    "use",
    {
        "compile": onnxfit.compile,
        "retrofit": lambda model: onnxfit.retrofit(model, 0.5),
        "restore": onnxfit.restore,
        "run-time jumps": with_run_time_jumps,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_compiled_model_is_no_source(
    use: tuple[str, Callable[[ModelProto], Any]], compiled: ModelProto
) -> None:
    """Its layout and its names are ONNX Runtime's: the message names the hardened file."""
    message = "the model was compiled: take the hardened file, the one with the SHA-256"
    with pytest.raises(ModelError, match=f"^{message} {digest_of(compiled)}$"):
        use[1](compiled)


def test_without_a_library_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: ModelProto
) -> None:
    """Nor does a compiled model run: the message says what is missing."""
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    uses: list[Callable[[], Any]] = [
        lambda: onnxfit.compile(hard),
        lambda: onnxfit.session(compiled),
        lambda: onnxfit.session(hard, compile=True),
    ]
    monkeypatch.setenv("ONNXFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, "/nowhere/lib.so")
    for use in uses:
        with pytest.raises(NativeLibraryError, match=r"names /nowhere/lib\.so, which is no file$"):
            use()
    monkeypatch.delenv(native_library.LIBRARY_VARIABLE)
    monkeypatch.setattr(native_library, "_folders", lambda: [tmp_path])
    for use in uses:
        with pytest.raises(NativeLibraryError, match=r"^onnxfit was installed without its custom"):
            use()


def for_another(compiled: ModelProto, **machine: Any) -> ModelProto:
    """Return a compiled model that was made for another machine."""
    model = ModelProto()
    model.CopyFrom(compiled)
    for entry in model.metadata_props:
        if entry.key == COMPILED_KEY:
            made = json.loads(entry.value)
            entry.value = json.dumps({**made, "machine": made["machine"] | machine})
    return model


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        ({"onnxruntime": "1.0"}, f"ONNX Runtime 1.0, this is {onnxruntime.__version__}"),
        ({"architecture": "Plan9 vax"}, f"Plan9 vax, this is {this_machine()['architecture']}"),
        (
            {"instructions": [*this_machine()["instructions"], "ABACUS"]},
            "a CPU that differs from this one in ABACUS",
        ),
        ({"onnxruntime": None, "instructions": None}, "ONNX Runtime None, this is "),
    ],
    ids=["onnxruntime", "architecture", "instructions", "nothing"],
)
def test_another_machine_is_refused(
    machine: dict[str, Any], what: str, compiled: ModelProto, tmp_path: Path
) -> None:
    """As a model or as a file: what differs, and what to compile again."""
    model = for_another(compiled, **machine)
    again = f"compile the hardened file again, the one with the SHA-256 {digest_of(compiled)}"
    onnxfit.save(model, tmp_path / "c.onnx")
    for given in (model, tmp_path / "c.onnx", str(tmp_path / "c.onnx")):
        with pytest.raises(ModelError) as raised:
            onnxfit.session(given)
        assert str(raised.value).startswith(f"the model was compiled for {what}")
        assert str(raised.value).endswith(f": {again}")


def test_a_cpu_with_fewer_instructions_is_refused() -> None:
    """Each extension that one has and the other lacks is named."""
    here = this_machine()
    if not here["instructions"]:
        pytest.skip("this CPU has no extension that matters")
    fewer = here | {"instructions": here["instructions"][1:]}
    message = "^the model was compiled for a CPU that differs from this one in "
    with pytest.raises(ModelError, match=f"{message}{here['instructions'][0]}: compile the hard"):
        check({"machine": fewer, "hardened_sha256": "0"})
    check({"machine": here, "hardened_sha256": "0"})


@pytest.mark.parametrize(
    "value",
    ["", "{", "[]", "3", '"text"', "{}", '{"machine": 3, "hardened_sha256": "0"}',
     '{"machine": {}}', '{"machine": {}, "hardened_sha256": 3}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_record_is_refused(value: str, compiled: ModelProto) -> None:
    """With one sentence, whatever stands there."""
    model = ModelProto()
    model.CopyFrom(compiled)
    for entry in model.metadata_props:
        if entry.key == COMPILED_KEY:
            entry.value = value
    for use in (onnxfit.session, onnxfit.compile):
        with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.compiled is damaged$"):
            use(model)


def test_instructions_that_are_no_list_are_refused(compiled: ModelProto) -> None:
    """A record that another program wrote into ends in no traceback."""
    damaged: list[Any] = [3, None, {}, [3], [["AVX"]]]
    for instructions in damaged:
        with pytest.raises(OnnxfitError):
            onnxfit.session(for_another(compiled, instructions=instructions))


@pytest.mark.parametrize(
    "providers", [["CUDAExecutionProvider", native_library.CPU], ["CUDAExecutionProvider"]]
)
def test_other_providers_are_refused(providers: list[str], compiled: ModelProto) -> None:
    """What was compiled for the CPU runs there alone."""
    names = ", ".join(providers)
    message = (
        f"^the model was compiled for CPUExecutionProvider alone; run the hardened file on {names}$"
    )
    with pytest.raises(NativeLibraryError, match=message):
        onnxfit.session(compiled, providers=providers)
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    message = f"^a model is compiled for CPUExecutionProvider alone, got {names}$"
    with pytest.raises(ValueError, match=message):
        onnxfit.session(hard, providers=providers, compile=True)


def test_the_provider_may_have_options(compiled: ModelProto) -> None:
    """A pair of its name and its options is the same provider."""
    session = onnxfit.session(compiled, quiet(), [(native_library.CPU, {"use_arena": "0"})])
    assert same_bits(outputs(compiled, {"x": X})[0], session.run(None, {"x": X})[0])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_the_options_are_the_users_again(level: str, compiled: ModelProto) -> None:
    """A compiled model runs as it is, and the next session with the options at their level."""
    levels = onnxruntime.GraphOptimizationLevel
    options, chosen = quiet(), getattr(levels, level)
    options.graph_optimization_level = chosen
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxfit.session(compiled, options)
    assert chosen == options.graph_optimization_level
    assert levels.ORT_DISABLE_ALL == session.get_session_options().graph_optimization_level
    assert 1 == session.get_session_options().intra_op_num_threads
    assert "1" == options.get_session_config_entry("session.disable_prepacking")
    broken = ModelProto()
    broken.CopyFrom(compiled)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        onnxfit.session(broken, options)
    assert chosen == options.graph_optimization_level
    plain = onnxfit.session(network(HEAD + "g " + RESIDUAL), options)
    assert chosen == plain.get_session_options().graph_optimization_level


def test_a_compiled_model_runs_node_by_node(compiled: ModelProto, tmp_path: Path) -> None:
    """ONNX Runtime adds, fuses and drops nothing."""
    options = quiet()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxfit.session(compiled, options)
    ran = onnx.load(tmp_path / "run.onnx")
    assert [n.op_type for n in compiled.graph.node] == [n.op_type for n in ran.graph.node]


def test_only_onnx_runtime_and_inspect_read_a_compiled_model(compiled: ModelProto) -> None:
    """Everything else says which file to take, the twin and the attacks included."""
    pytest.importorskip("torch")
    for reader in (onnxfit.find_sites, onnxfit.to_torch, onnxfit.restore, onnxfit.compile):
        with pytest.raises(
            ModelError,
            match=r"^the model was compiled: take the hardened file, the one with the "
            rf"SHA-256 {recorded(compiled)['hardened_sha256']}$",
        ):
            reader(compiled)
    with pytest.raises(ModelError, match=r"^the model was compiled: take the hardened file"):
        onnxfit.verify(compiled, (X, np.zeros(len(X), int)))


@pytest.mark.parametrize(
    "value", ["3", "[]", '{"sites": 3}', '{"sites": {"a": 3}}', '{"sites": {"a": {"domain": 3}}}']
)
def test_a_damaged_record_of_what_to_restore_is_refused(value: str) -> None:
    """The jumps are taken out for ONNX Runtime as restoring does."""
    hard = onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), 1.5)
    for entry in hard.metadata_props:
        if entry.key == "onnxfit.restore":
            entry.value = value
    with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.restore is damaged$"):
        onnxfit.compile(hard)


def test_an_older_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that needs an operator which the library lacks is not the model's fault."""
    jumps: Any = {"a": np.arange(16, dtype=np.float32)[:, None, None], "y": 0.5}
    compiled = onnxfit.compile(onnxfit.retrofit(network(HEAD + "g " + RESIDUAL), jumps=jumps))
    assert "NchwcJumpReLU" in {node.op_type for node in compiled.graph.node}
    monkeypatch.setattr(runtime, "register", lambda options: None)
    library = re.escape(str(onnxfit.library_path()))
    message = (
        "^the model needs the operator NchwcJumpReLU, which the custom-op library "
        f"{library} does not have: it was built from an older onnxfit$"
    )
    with pytest.raises(NativeLibraryError, match=message):
        onnxfit.session(compiled, quiet())
