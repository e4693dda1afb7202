"""Models and options that few people have and that must come out right or be refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper
from support import parse, plain_session, quiet, relu_model, run, run_one, same_bits

import onnxfit
from onnxfit import native_library, op
from onnxfit.errors import ModelError, NativeLibraryError
from onnxfit.hardening import Lowering
from onnxfit.sites import Unreplaced, scan

TWO = "h = Relu(x) n = Neg(h) s = Add(n, x) y = Relu(s)"
X = np.array([-1, 0.25, 0.5, 0.75, 2], np.float32)


def jumps(model: ModelProto) -> dict[str, object]:
    """Return the jumps by site."""
    return {site.name: site.jump for site in onnxfit.find_sites(model)}


@pytest.mark.parametrize("element_type", ["float", "float16", "double"])
@pytest.mark.parametrize("jump", [0.1, 0.3, 1 / 3])
def test_jumps_that_are_kept_keep_every_bit(jump: float, element_type: str) -> None:
    """Retrofitting other sites leaves a jump that is no short binary fraction as it was."""
    once = onnxfit.retrofit(relu_model(17, element_type, nodes=TWO), jump)
    twice = onnxfit.retrofit(once, jumps={"y": 1.0})
    assert jumps(once)["h"] == jumps(twice)["h"]
    assert once.graph.node[0] == twice.graph.node[0]


def test_session_options_serve_several_sessions() -> None:
    """Registering twice is no error, in whatever order."""
    options = quiet()
    onnxfit.register(options)
    onnxfit.register(options)
    for jump in (0.5, 1.0):
        hard = onnxfit.retrofit(relu_model(), jump)
        assert same_bits(op.jump_relu(X, jump), run_one(onnxfit.session(hard, options), X))


def test_session_options_do_not_carry_one_models_folder_to_the_next(tmp_path: Path) -> None:
    """Each session takes the weights that lie beside its own model."""
    model = relu_model(nodes="h = Add(x, w) y = Relu(h)")
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[5], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    options = quiet()
    for name, weight in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(np.full(5, weight, np.float32).tobytes())
        onnxfit.save(model, tmp_path / name / "m.onnx")
    for name, weight in (("a", 1), ("b", 2)):
        folder = tmp_path / name
        for session in (
            onnxfit.session(model, options, base_dir=folder),
            onnxfit.session(folder / "m.onnx", options),
        ):
            np.testing.assert_array_equal(np.maximum(X + weight, 0), run_one(session, X))
        assert {"m.onnx", "w.bin"} == {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("lowering", ["function", "standard"])
def test_a_site_of_several_types_runs_in_both_lowerings(lowering: Lowering) -> None:
    """A function called with float and double gets constants of the type of its input."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
        "g (float[N] x) => (float[N] y) { a = local.act(x) b = Cast<to = 11>(a) "
        "c = local.act(b) y = Cast<to = 1>(c) } "
        '<domain: "local", opset_import: ["": 17]> act (v) => (w) { w = Relu(v) }'
    )
    hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
    onnx.checker.check_model(hard, full_check=True)
    assert same_bits(op.jump_relu(X, 0.5), run(hard, {"x": X})[0])
    assert {"local::act/w": 0.5} == jumps(hard)
    assert source == onnxfit.restore(hard)


def test_a_bound_that_the_caller_of_a_function_gives_is_no_constant() -> None:
    """A Clip whose lower bound is an attribute reference stays, whatever the reference holds."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 10, "local": 1]> '
        "g (float[N] x) => (float[N] y) { y = local.cut<lo = -1.0>(x) } "
        '<domain: "local", opset_import: ["": 10]> cut <lo> (v) => (w) '
        "{ w = Clip<min: float = @lo, max = 6.0>(v) }"
    )
    reason = "its lower bound is an argument of the function"
    assert [Unreplaced("local::cut/w", "Clip", reason)] == list(scan(model))


@pytest.mark.parametrize("bound", ["Constant<value_float = 0.0>()", "Constant<value_int = 0>()"])
def test_a_bound_is_followed_to_its_constant(bound: str) -> None:
    """Through a Constant of any spelling, Identity and casts."""
    model = relu_model(nodes=f"a = {bound} b = Identity(a) c = CastLike(b, x) y = Clip(x, c)")
    hard = onnxfit.retrofit(model, 0.5)
    assert same_bits(op.jump_relu(X, 0.5), run(hard, {"x": X})[0])


def test_the_default_domain_may_be_spelled_out() -> None:
    """Types are inferred through operators of `ai.onnx`, imported under that name."""
    model = relu_model(nodes="b = Less(x, x) w = Where(b, x, x) y = Relu(w)")
    model.opset_import[0].domain = "ai.onnx"
    model.graph.output[0].type.Clear()
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert ["float"] == [site.element_type for site in onnxfit.find_sites(model)]


def test_an_unknown_operator_on_integers_hides_no_relu() -> None:
    """Its output may be anything; the weights behind it tell."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17, "custom": 1]> '
        "g (uint8[1,1,4,4] x, float[1,1,1,1] w) => (y) "
        "{ n = custom.Normalise(x) h = Conv(n, w) y = Relu(h) }"
    )
    assert ["float"] == [site.element_type for site in onnxfit.find_sites(model)]


def test_a_custom_operator_with_a_subgraph_is_walked() -> None:
    """Sites are found in the graphs of any operator."""
    body = relu_model().graph
    body.node[0].output[0] = body.output[0].name = "inner"
    model = relu_model(nodes="y = Identity(x)")
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node.append(
        helper.make_node("BeamSearch", ["x"], ["z"], domain="com.microsoft", decoder=body)
    )
    assert ["z.decoder/inner"] == [site.name for site in onnxfit.find_sites(model)]


def test_a_source_that_knows_our_domain_is_restored() -> None:
    """Its import, of any version, and its other functions stay."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17, "onnxfit": 1000]> '
        "g (float[N] x) => (float[N] y) { h = onnxfit.Other(x) y = Relu(h) } "
        '<domain: "onnxfit", opset_import: ["": 17]> Other (v) => (w) { w = Relu(v) }'
    )
    hard = onnxfit.retrofit(source, 0.5)
    assert {"y": 0.5, "onnxfit::Other/w": 0.5} == jumps(hard)
    assert source == onnxfit.restore(hard)


@pytest.mark.parametrize("name", ["onnxfit.site/q/zero", "onnxfit.constant/float/0.5"])
def test_our_names_in_a_source_are_refused(name: str) -> None:
    """A value of that name would clash with what hardening adds."""
    source = relu_model(nodes=TWO)
    source.graph.node[1].output[0] = source.graph.node[2].input[0] = name
    with pytest.raises(ModelError, match=rf"^the model has '{name}', a name that onnxfit keeps"):
        onnxfit.retrofit(source, 0.5)


def test_two_sites_of_one_name_are_refused() -> None:
    """A main value may bear the name that a subgraph's value has with its scope."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (bool c, float[N] x) => (float[N] y) { '
        "q = Relu(x) y = If(c) <then_branch = t () => (float[N] z) { z = Relu(q) }, "
        "else_branch = e () => (float[N] w) { w = Identity(q) }> }"
    )
    branch = "y.then_branch/z"
    model.graph.node[0].output[0] = branch
    for graph in (a.g for a in model.graph.node[1].attribute):
        graph.node[0].input[0] = branch
    with pytest.raises(ModelError, match=r"^two activations are named 'y\.then_branch/z'; rename"):
        onnxfit.retrofit(model, 0.5)


def test_a_jump_that_is_computed_at_run_time_is_shown_and_not_lost() -> None:
    """J as a graph input is no jump size of the file."""
    model = onnxfit.retrofit(relu_model(9, nodes=TWO), 0.5)
    model.graph.node[1].input[1] = "j"
    model.graph.input.append(helper.make_tensor_value_info("j", 1, []))
    assert {"h": (), "y": 0.5} == jumps(model)
    with pytest.raises(ModelError, match=r"^'h' has a jump that is computed at run time, which"):
        onnxfit.retrofit(model, jumps={"y": 1.0})


def test_a_jump_that_is_no_jump_size_is_shown_as_it_is() -> None:
    """A file edited by hand does not crash its reader."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    hard.graph.node[0].attribute[0].f = -1
    assert {"y": -1.0} == jumps(hard)


@pytest.mark.parametrize("record", ["[]", '"text"', "{", '{"sites": []}', '{"sites": {"y": 1}}'])
def test_a_damaged_record_is_one_sentence(record: str) -> None:
    """Whatever the metadata holds."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    next(e for e in hard.metadata_props if e.key == "onnxfit.restore").value = record
    with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.restore is damaged"):
        onnxfit.restore(hard)


def test_nodes_that_cannot_be_are_no_sites() -> None:
    """Missing inputs and outputs and damaged constants are not our error to raise."""
    model = relu_model(nodes="l = Constant<value = float {0.0}>() h = Clip(x, l) y = Relu(h)")
    model.graph.node[0].attribute[0].t.Clear()
    model.graph.node[0].attribute[0].t.MergeFrom(
        onnx.TensorProto(data_type=1, dims=[1], raw_data=b"\0")
    )
    model.graph.node.append(onnx.NodeProto(op_type="Relu"))
    model.graph.node.append(onnx.NodeProto(op_type="Relu", input=[""], output=["q"]))
    model.graph.node.append(onnx.NodeProto(op_type="JumpReLU", domain="onnxfit"))
    assert ["y"] == [site.name for site in onnxfit.find_sites(model)]


def test_a_positive_jump_that_would_become_0_is_refused() -> None:
    """A rounding that turns the hardening off is not done in silence."""
    with pytest.raises(ValueError, match=r"^the jump size 1e-50 is 0 in float; give 0 where"):
        onnxfit.retrofit(relu_model(), 1e-50)
    with pytest.raises(ValueError, match=r"^the jump size 1e-09 is 0 in float16; give 0 where"):
        onnxfit.retrofit(relu_model(17, "float16"), 1e-9)


def external(folder: Path) -> ModelProto:
    """Make a model with external data in a folder."""
    model = relu_model(nodes="h = Add(x, w) y = Relu(h)")
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[5], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(20))
    return model


def test_the_weights_are_never_the_output(tmp_path: Path) -> None:
    """Neither the source's nor what would lie beside the output."""
    model = external(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "source" / "other.bin").hardlink_to(tmp_path / "source" / "w.bin")
    for output in ("source/w.bin", "source/other.bin", "target/w.bin"):
        with pytest.raises(ModelError, match=r"is where the model's external data lies$"):
            onnxfit.save(model, tmp_path / output, base_dir=tmp_path / "source")
    assert bytes(20) == (tmp_path / "source" / "w.bin").read_bytes()
    assert not list((tmp_path / "target").iterdir())


def test_a_write_that_fails_takes_the_placed_weights_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of an attempt."""
    model = external(tmp_path / "source")
    (tmp_path / "target").mkdir()

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match=r"No space left on device$"):
        onnxfit.save(model, tmp_path / "target" / "m.onnx", base_dir=tmp_path / "source")
    assert not list((tmp_path / "target").iterdir())
    assert (tmp_path / "source" / "w.bin").exists()


def test_copied_data_has_one_name(tmp_path: Path) -> None:
    """Onnx reads what was copied, and refuses what was linked, the source included."""
    model = external(tmp_path / "source")
    for name, copy in (("copied", True), ("linked", False)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "m.onnx"
        onnxfit.save(model, path, base_dir=tmp_path / "source", copy_data=copy)
        links = 1 if copy else 2
        assert links == (tmp_path / name / "w.bin").stat().st_nlink
        onnxfit.session(path)
    onnx.load(tmp_path / "copied" / "m.onnx")
    # A copy that is asked for later takes the link's place.
    linked = tmp_path / "linked" / "m.onnx"
    onnxfit.save(model, linked, base_dir=tmp_path / "source", copy_data=True)
    onnx.load(linked)
    assert (tmp_path / "source" / "w.bin").stat().st_nlink == 1


def test_a_link_to_a_file_is_written_through_and_a_device_is_refused(tmp_path: Path) -> None:
    """A symbolic link stays one; what is no ordinary file stays what it is."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "m.onnx"
    link.symlink_to(tmp_path / "real" / "m.onnx")
    onnxfit.save(relu_model(), link)
    assert link.is_symlink()
    assert relu_model() == onnxfit.load(tmp_path / "real" / "m.onnx")
    with pytest.raises(ModelError, match=r"^/dev/null is no ordinary file$"):
        onnxfit.save(relu_model(), "/dev/null")


def test_onnxruntimes_own_mark_on_our_domain_does_no_harm(tmp_path: Path) -> None:
    """A file that ONNX Runtime wrote after a registration imports our domain already."""
    options = quiet()
    onnxfit.register(options)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        relu_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    source = onnxfit.load(tmp_path / "optimised.onnx")
    hard = onnxfit.retrofit(source, 0.5)
    assert same_bits(op.jump_relu(X, 0.5), run_one(plain_session(hard), X))
    assert same_bits(op.jump_relu(X, 0.5), run_one(onnxfit.session(hard), X))
    assert source.SerializeToString() == onnxfit.restore(hard).SerializeToString()


def test_a_fused_clip_is_restored_without_the_record() -> None:
    """The upper bound is read off the Clip that hardening put there."""
    for opset in (10, 17):
        source = relu_model(opset, nodes="y = Identity(x)")
        node = helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")
        node.attribute.append(helper.make_attribute("activation", "Clip"))
        node.attribute.append(helper.make_attribute("activation_params", [0.0, 6.0]))
        source.graph.node[0].CopyFrom(node)
        hard = onnxfit.retrofit(source, 0.5)
        del hard.metadata_props[:]
        assert source.graph == onnxfit.restore(hard).graph


def test_a_file_of_which_a_part_was_written_out_is_refused() -> None:
    """Restoring what is left would hide that the rest still jumps."""
    hard = onnxfit.retrofit(relu_model(nodes=TWO), 0.5)
    hard.graph.node[0].op_type, hard.graph.node[0].domain = "Relu", ""
    del hard.graph.node[0].attribute[:]
    for verb in (onnxfit.restore, lambda model: onnxfit.retrofit(model, 1.0)):
        with pytest.raises(
            ModelError, match=r"^2 activations of the model were hardened and 1 are"
        ):
            verb(hard)


@pytest.mark.parametrize("tail", ["h = Relu(x)", "h = Clip<min = 0.0, max = 6.0>(x)"])
@pytest.mark.parametrize("lowering", ["function", "custom", "standard"])
def test_a_tool_may_rename_what_a_site_writes(tail: str, lowering: Lowering) -> None:
    """As optimisers do that take out an Identity behind the activation."""
    source = relu_model(10, nodes=f"{tail} y = Identity(h)")
    hard = onnxfit.retrofit(source, 0.5, lowering=lowering)
    del hard.graph.node[-1]
    hard.graph.node[-1].output[0] = "y"
    assert {"y": 0.5} == jumps(hard)
    restored = onnxfit.restore(hard)
    assert [source.graph.node[0].op_type] == [node.op_type for node in restored.graph.node]
    assert ["x"] == list(restored.graph.node[0].input)


def test_a_failed_copy_leaves_the_link_that_an_earlier_output_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what an attempt added is taken away again."""
    model = external(tmp_path / "source")
    (tmp_path / "target").mkdir()
    path = tmp_path / "target" / "m.onnx"
    onnxfit.save(model, path, base_dir=tmp_path / "source")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match=r"No space left on device$"):
        onnxfit.save(model, path, base_dir=tmp_path / "source", copy_data=True)
    assert {"m.onnx", "w.bin"} == {file.name for file in path.parent.iterdir()}
    onnxfit.session(path)


def test_a_link_that_leads_out_of_the_outputs_folder_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime would not follow it."""
    model = external(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "w.bin").symlink_to(tmp_path / "source" / "w.bin")
    with pytest.raises(ModelError, match=r"w\.bin is a link that leaves "):
        onnxfit.save(model, tmp_path / "target" / "m.onnx", base_dir=tmp_path / "source")


@pytest.mark.parametrize("location", [".", "a\0b", "./"])
def test_a_location_that_names_no_file_is_refused(location: str, tmp_path: Path) -> None:
    """In one sentence."""
    model = external(tmp_path / "source")
    model.graph.initializer[0].external_data[0].value = location
    with pytest.raises(ModelError, match=r"which leaves the model's folder$"):
        onnxfit.retrofit(model, 0.5, base_dir=tmp_path)


def test_a_name_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    """Protobuf hands such names over as bytes."""
    path = tmp_path / "m.onnx"
    content = relu_model(nodes="hhhh = Relu(x) y = Neg(hhhh)").SerializeToString()
    path.write_bytes(content.replace(b"hhhh", b"\xb2\xe3\xb5\xe3"))
    with pytest.raises(ModelError, match=r"^the model has names that are not UTF-8$"):
        onnxfit.retrofit(path, 0.5)


@pytest.mark.parametrize(
    "record", ['{"ir_version": "x"}', '{"imported": 3}', '{"sites": {"y": {"domain": 3}}}']
)
def test_a_record_of_wrong_types_is_one_sentence(record: str) -> None:
    """As after an edit by hand."""
    hard = onnxfit.retrofit(relu_model(), 0.5)
    next(e for e in hard.metadata_props if e.key == "onnxfit.restore").value = record
    with pytest.raises(ModelError, match=r"^the metadata entry onnxfit\.restore is damaged"):
        onnxfit.restore(hard)


def test_other_metadata_of_our_prefix_is_the_users() -> None:
    """It neither makes a model hardened nor goes when the model is restored."""
    source = relu_model()
    source.metadata_props.add(key="onnxfit.note", value="")
    assert source == onnxfit.restore(onnxfit.retrofit(source, 0.5))


def test_a_function_of_our_name_without_nodes_is_refused() -> None:
    """A file can hold one function of a name."""
    source = onnxfit.retrofit(relu_model(), 0.5)
    source.graph.node[0].op_type, source.graph.node[0].domain = "Relu", ""
    del source.graph.node[0].attribute[:], source.metadata_props[:]
    with pytest.raises(ModelError, match=r"^the model has 'onnxfit::JumpReLU', a name that onnxf"):
        onnxfit.retrofit(source, 0.5)


def test_a_failed_registration_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same options can be registered once the library is there."""
    options = quiet()
    with monkeypatch.context() as broken:
        path = tmp_path / "libonnxfit_ops.so"
        path.write_bytes(b"")
        broken.setenv(native_library.LIBRARY_VARIABLE, str(path))
        with pytest.raises(NativeLibraryError):
            onnxfit.register(options)
    hard = onnxfit.retrofit(relu_model(), 0.5, lowering="custom")
    assert same_bits(op.jump_relu(X, 0.5), run_one(onnxfit.session(hard, options), X))


def test_a_library_that_was_registered_by_hand_is_named_as_the_cause() -> None:
    """ONNX Runtime's own message would blame the model."""
    options = quiet()
    options.register_custom_ops_library(str(onnxfit.library_path()))
    with pytest.raises(NativeLibraryError, match=r"^the library is registered with these options"):
        onnxfit.session(relu_model(), options)


def test_shape_notes_in_subgraphs_go_when_restored() -> None:
    """What shape inference noted of our values is no part of the source."""
    source = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (bool c, float[N] x) => (float[N] y) { '
        "y = If(c) <then_branch = t () => (float[N] z) { z = Relu(x) }, "
        "else_branch = e () => (float[N] w) { w = Identity(x) }> }"
    )
    hard = onnxfit.retrofit(source, 0.5, lowering="standard")
    assert (
        b"onnxfit."
        not in onnxfit.restore(onnx.shape_inference.infer_shapes(hard)).SerializeToString()
    )


def test_circles_and_unknown_types_are_survived() -> None:
    """A damaged file is described, not followed for ever."""
    model = relu_model(
        nodes="a = Reshape(b, x) b = Reshape(a, x) q = QuantizeLinear(a, x) y = Relu(x)"
    )
    model.graph.input[0].type.tensor_type.elem_type = 999
    model.graph.output[0].type.tensor_type.elem_type = 999
    found = [(item.op_type, item.reason) for item in scan(model) if isinstance(item, Unreplaced)]
    assert [("Relu", "it acts on type 999, not on a floating type")] == found
