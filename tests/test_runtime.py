"""Sessions, registration and the library: what runs where, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support import quiet, relu_model, run_one, same_bits

import onnxfit
from onnxfit import native_library, op, runtime
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.files import as_model

X = np.array([-1, 0.25, 0.5, 0.75, np.nan], np.float32)
CUDA = "CUDAExecutionProvider"


def kernel_runs(session: onnxruntime.InferenceSession) -> bool:
    """Tell from a profile whether the session ran a JumpReLU kernel or the function's nodes."""
    run_one(session, X)
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text())
    profile.unlink()
    operators = {event.get("args", {}).get("op_name") for event in events}
    assert operators & {"JumpReLU", "Where"}
    return "JumpReLU" in operators


def profiled(tmp_path: Path) -> onnxruntime.SessionOptions:
    """Make options that write a profile."""
    options = quiet()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    return options


def test_a_session_runs_the_kernel(tmp_path: Path) -> None:
    """By default on the CPU, with the library registered."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    session = onnxfit.session(hard, profiled(tmp_path))
    assert ["CPUExecutionProvider"] == session.get_providers()
    assert kernel_runs(session)
    assert same_bits(op.jump_relu(X, 0.5), run_one(onnxfit.session(hard), X))


def test_plain_onnxruntime_runs_the_function_body(tmp_path: Path) -> None:
    """The same file, without the library, gives the same bits."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    providers = ["CPUExecutionProvider"]
    content = hard.SerializeToString()
    session = onnxruntime.InferenceSession(content, profiled(tmp_path), providers=providers)
    assert not kernel_runs(session)
    session = onnxruntime.InferenceSession(content, quiet(), providers=providers)
    assert same_bits(op.jump_relu(X, 0.5), run_one(session, X))


def test_registering_gives_plain_onnxruntime_the_kernel(tmp_path: Path) -> None:
    """`register` is all that a program with its own session needs."""
    options = profiled(tmp_path)
    onnxfit.register(options)
    hard = onnxfit.retrofit(relu_model(), 0.5, lowering="custom")
    session = onnxruntime.InferenceSession(
        hard.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert kernel_runs(session)


def test_a_session_keeps_the_options_it_is_given() -> None:
    """Options are completed, not replaced."""
    options = quiet()
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxfit.session(onnxfit.retrofit(relu_model(), 0.5), options)
    assert session.get_session_options().intra_op_num_threads == 1
    assert options.get_session_config_entry("session.disable_prepacking") == "1"


def test_a_session_takes_a_path_and_a_plain_model(tmp_path: Path) -> None:
    """A model that is not hardened runs as it is."""
    path = tmp_path / "m.onnx"
    onnxfit.save(relu_model(), path)
    expected = np.maximum(X, 0)
    for model in (path, str(path), relu_model()):
        np.testing.assert_array_equal(expected, run_one(onnxfit.session(model), X))


def build(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    """Let the library be one that was built for these providers."""
    monkeypatch.setattr(native_library, "_build_info", lambda path: {"providers": list(providers)})


def test_the_library_serves_the_providers_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU-only build must not move activations off a GPU."""
    cpu = native_library.CPU
    build(monkeypatch, cpu)
    assert native_library.serves([cpu])
    assert not native_library.serves([CUDA, cpu])
    build(monkeypatch, cpu, CUDA)
    assert native_library.serves([CUDA, cpu])
    assert not native_library.serves(["TensorrtExecutionProvider", CUDA, cpu])
    assert not native_library.serves(["OpenVINOExecutionProvider"])


def test_an_unserved_provider_gets_the_function_body(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the library does not serve a provider of the session, it is not registered."""
    build(monkeypatch)
    monkeypatch.setattr(runtime, "serves", lambda providers: False)
    hard = onnxfit.retrofit(relu_model(), 0.5)
    assert not kernel_runs(onnxfit.session(hard, profiled(tmp_path)))


def test_a_custom_lowering_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no function to stand in, and the message says which lowering has."""
    monkeypatch.setattr(runtime, "serves", lambda providers: False)
    hard = onnxfit.retrofit(relu_model(), 0.5, lowering="custom")
    with pytest.raises(NativeLibraryError, match=r"does not serve CPU.*; use the function lower"):
        onnxfit.session(hard)


def test_without_a_library_the_function_body_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package that was installed without a compiler works, only slower."""
    monkeypatch.delenv(native_library.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(native_library, "_folders", lambda: [tmp_path])
    with pytest.raises(NativeLibraryError, match="installed without its custom-op library"):
        onnxfit.library_path()
    hard = onnxfit.retrofit(relu_model(), 0.5)
    assert not kernel_runs(onnxfit.session(hard, profiled(tmp_path)))


def test_beside_the_sources_the_installed_library_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python that imports the sources takes the library of the installed package."""
    monkeypatch.delenv(native_library.LIBRARY_VARIABLE, raising=False)
    (tmp_path / "onnxfit-0.1.0.dist-info").mkdir()
    (tmp_path / "onnxfit-0.1.0.dist-info" / "METADATA").write_text("Name: onnxfit\nVersion: 0\n")
    (tmp_path / "onnxfit").mkdir()
    library = tmp_path / "onnxfit" / native_library.library_name()
    library.touch()
    monkeypatch.setattr(onnxfit, "__path__", [str(tmp_path / "sources")])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert library == onnxfit.library_path()


def test_a_library_that_does_not_load_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Never a silent fallback: the message says what to do."""
    broken = tmp_path / "libonnxfit_ops.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, str(broken))
    hard = onnxfit.retrofit(relu_model(), 0.5)
    for use in (lambda: onnxfit.session(hard), lambda: onnxfit.register(quiet())):
        with pytest.raises(NativeLibraryError, match=r"does not load: .*; reinstall onnxfit on"):
            use()


def test_a_library_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong ONNXFIT_LIBRARY is not taken for "none was built"."""
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, "/nowhere/lib.so")
    with pytest.raises(NativeLibraryError, match=r"names /nowhere/lib\.so, which is no file$"):
        onnxfit.session(relu_model())


def test_a_library_without_our_symbols_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any shared library is not ours."""
    path = next(Path("/lib").glob("*/libc.so.6"), None)
    if path is None:
        pytest.skip("there is no C library to take for ours")
    monkeypatch.setenv(native_library.LIBRARY_VARIABLE, str(path))
    with pytest.raises(NativeLibraryError, match="does not load"):
        native_library.build_info()


def test_a_model_that_onnxruntime_refuses_is_a_model_error(tmp_path: Path) -> None:
    """ONNX Runtime's own classes do not leak."""
    broken = relu_model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"^ONNX Runtime refuses the model: "):
        onnxfit.session(broken, quiet())
    with pytest.raises(ModelError, match=r"none\.onnx does not exist$"):
        onnxfit.session(tmp_path / "none.onnx")


def test_who_prefers_nhwc() -> None:
    """The CUDA provider, however the option is spelled; the options of others do not count."""
    for value in ("1", "True", "true", "TRUE", 1, True):
        assert runtime._prefers_nhwc([(CUDA, {"prefer_nhwc": value}), native_library.CPU])
    for value in ("0", "False", "", 0, False):
        assert not runtime._prefers_nhwc([(CUDA, {"prefer_nhwc": value})])
    others: list[runtime.Provider] = [
        CUDA,
        (CUDA, {}),
        ("XnnpackExecutionProvider", {"prefer_nhwc": 1}),
    ]
    assert not runtime._prefers_nhwc(others)


def test_a_compiled_file_is_parsed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And another file not at all, by onnxfit."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    onnxfit.save(hard, tmp_path / "hard.onnx")
    onnxfit.save(onnxfit.compile(hard), tmp_path / "compiled.onnx")
    parsed: list[object] = []

    def count(model: Any) -> onnx.ModelProto:
        parsed.append(model)
        return as_model(model)

    monkeypatch.setattr(runtime, "as_model", count)
    onnxfit.session(tmp_path / "hard.onnx", quiet())
    assert [] == parsed
    onnxfit.session(tmp_path / "compiled.onnx", quiet())
    assert [tmp_path / "compiled.onnx"] == parsed


@pytest.mark.skipif(native_library.cuda_devices() > 0, reason="there is a CUDA device")
def test_a_provider_that_does_not_start_is_never_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """With the CPU named as fallback a warning says what runs; without it, an error."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider to fail")
    with pytest.warns(RuntimeWarning, match="did not start; the session runs on CPU"):
        session = onnxfit.session(hard, quiet(), [CUDA, "CPUExecutionProvider"])
    assert same_bits(op.jump_relu(X, 0.5), run_one(session, X))
    with pytest.raises(NativeLibraryError, match="CUDAExecutionProvider did not start"):
        onnxfit.session(hard, quiet(), [CUDA])


@pytest.mark.gpu
@pytest.mark.skipif(not native_library.cuda_devices(), reason="there is no CUDA device")
@pytest.mark.parametrize("element_type", ["float", "float16", "double"])
def test_on_cuda_kernel_and_function_body_give_the_same_bits(element_type: str) -> None:
    """The hardened file on the CUDA provider, with the library and without."""
    hard = onnxfit.retrofit(relu_model(17, element_type), 0.5)
    fast = onnxfit.session(hard, quiet(), [CUDA])
    plain = onnxruntime.InferenceSession(hard.SerializeToString(), quiet(), providers=[CUDA])
    x = np.linspace(-2, 2, 100_003).astype(
        {"float": "f4", "float16": "f2", "double": "f8"}[element_type]
    )
    expected = op.jump_relu(x, 0.5)
    assert same_bits(expected, run_one(fast, x))
    assert same_bits(expected, run_one(plain, x))
