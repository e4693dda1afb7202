"""Read and write ONNX files: whole or not at all, weights in external files left where they are."""

import codecs
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.external_data import (
    check_external_data,
    has_external_data,
    holds,
    pending_files,
    place,
    take_outside,
)
from onnxfit.op import DOMAIN
from onnxfit.replacing import replacing

_PROTOBUF_LIMIT = 2**31
# Of initializers that a file holds, which leaves room for the rest.
_INSIDE = _PROTOBUF_LIMIT - 2**27
# Smaller ones stay inside, as exporters leave them.
_LEAST_OUTSIDE = 2**10
_SIGNATURES = {
    b"<": "a web or XML page",
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for",
    b"PK\x03\x04": "a ZIP archive, as PyTorch checkpoints are",
    b"\x1f\x8b": "compressed with gzip",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file, as Keras writes",
}


def load(path: str | Path) -> ModelProto:
    """Read an ONNX file. External data stays on disk.

    Raises:
        ModelError: The file is missing, cannot be read or is no ONNX model.
    """
    return read(path)[0]


def read_with_digest(model: ModelProto | str | Path) -> tuple[ModelProto, str]:
    """Return a model with the SHA-256 of its file, or of its serialisation if it has none."""
    if isinstance(model, ModelProto):
        return model, hashlib.sha256(model.SerializeToString()).hexdigest()
    return read(model)


def editable(model: ModelProto | str | Path, base_dir: str | Path | None) -> tuple[ModelProto, str]:
    """Return a model that may be edited, and the SHA-256 of its file or serialisation.

    Args:
        model: A model, which stays untouched, or its path.
        base_dir: Folder of its external data, by default that of the path.

    Raises:
        ModelError: It cannot be read, or external data is missing.
    """
    proto, digest = read_with_digest(model)
    if proto is model:
        proto = ModelProto()
        proto.CopyFrom(model)
    if (folder := folder_of(model, base_dir)) is not None:
        check_external_data(proto, folder)
    return proto, digest


def read(path: str | Path) -> tuple[ModelProto, str]:
    """Read an ONNX file and return the model and the SHA-256 of the file."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a directory, not an ONNX file") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise ModelError(f"{path} is empty")
    if len(content) >= _PROTOBUF_LIMIT:
        raise ModelError(
            f"{path} has {len(content)} bytes, more than a protobuf may have; "
            "save the model with external data"
        )
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX file{_guess(content)}") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model{_guess(content)}")
    return model, hashlib.sha256(content).hexdigest()


def _guess(content: bytes) -> str:
    """Say what a file that is no ONNX model seems to be."""
    start = content[:64].lstrip()
    for signature, what in _SIGNATURES.items():
        if start.startswith(signature):
            return f": it is {what}"
    if content[4:8] == b"ORTM":
        return ": it is in ONNX Runtime's own format (.ort)"
    # An incremental decoder waits for the rest of a character that the cut at 1024 bytes split.
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(content[:1024])
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character in "\r\n\t" for character in text):
        return ": it is a text file"
    return ": it is damaged, cut off, or of another format"


def as_model(model: ModelProto | str | Path) -> ModelProto:
    """Return the model itself, or read it where a path is given."""
    return model if isinstance(model, ModelProto) else load(model)


def folder_of(model: ModelProto | str | Path, base_dir: str | Path | None) -> Path | None:
    """Return the folder that a model's external data is relative to, or None if unknown."""
    if base_dir is not None:
        return Path(base_dir)
    return None if isinstance(model, ModelProto) else Path(model).parent


def save(
    model: ModelProto,
    path: str | Path,
    base_dir: str | Path | None = None,
    *,
    copy_data: bool = False,
) -> None:
    """Write a model, and put its external data beside it.

    The model is written to a temporary file and renamed, so that at any moment ``path`` holds
    the old content or the new. Each external file goes beside ``path`` under its relative name,
    as a hard link if the file system can, else as a reflink, else as a copy. Large initializers
    that onnxfit added go to a file of ``path``'s name and ``.data`` where the model has external
    data already, or would be more than a protobuf may hold.

    Args:
        model: The model.
        path: The file to write; an existing one is replaced, a link to one is followed.
        base_dir: Folder of the external data; not needed where the data is already beside
            ``path``.
        copy_data: Make no hard link. ``onnx.load`` and ``onnx.checker``, since onnx 1.21, read no
            file that has more than one name; ONNX Runtime does.

    Raises:
        ModelError: Something cannot be written, external data is missing, or another file lies
            where it belongs.
    """
    added: list[Path] = []
    try:
        path, content, pending, own = _prepared(model, Path(path), base_dir, link=not copy_data)
        for source, target in pending:
            if not target.exists():
                added.append(target)
            place(source, target, link=not copy_data)
        if own and not (target := _data_of(path)).exists():
            added.append(target)
            with replacing(target) as temporary, temporary.open("wb") as file:
                file.writelines(own)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except BaseException as error:
        for target in added:
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ModelError(f"{path} cannot be written: {error.strerror}") from error
        raise


def as_saved(model: ModelProto, path: Path) -> tuple[ModelProto, list[bytes]]:
    """Return a model as :func:`save` writes it to ``path``, and what goes into its file of data."""
    initializers = model.graph.initializer
    wanted = [
        tensor.name.startswith(f"{DOMAIN}.") and len(tensor.raw_data) >= _LEAST_OUTSIDE
        for tensor in initializers
    ]
    large = sum(tensor.ByteSize() for tensor in initializers) > _INSIDE
    if not any(wanted) or not (large or has_external_data(model)):
        return model, []
    saved = ModelProto()
    saved.CopyFrom(model)
    return saved, take_outside(saved, _data_of(path).name, wanted)


def check_writable(model: ModelProto, path: str | Path, base_dir: str | Path | None = None) -> None:
    """Raise what :func:`save` would raise, and write nothing."""
    _prepared(model, Path(path), base_dir, link=True)


@contextlib.contextmanager
def temporary_file(model: ModelProto, folder: Path) -> Iterator[Path]:
    """Give a file of the model in a folder, for as long as the context lasts."""
    name: str | None = None
    try:
        try:
            descriptor, name = tempfile.mkstemp(dir=folder, suffix=".onnx")
            with os.fdopen(descriptor, "wb") as file:
                file.write(model.SerializeToString())
        except OSError as error:
            raise ModelError(f"{folder} takes no temporary file: {error.strerror}") from error
        yield Path(name)
    finally:
        if name is not None:
            Path(name).unlink()


def _prepared(
    model: ModelProto, path: Path, base_dir: str | Path | None, *, link: bool
) -> tuple[Path, bytes, list[tuple[Path, Path]], list[bytes]]:
    """Check that a model can be saved.

    Returns:
        Where; its bytes; the external files to place; what goes into a file of its own.
    """
    path = path.resolve()
    if path.is_dir():
        raise ModelError(f"{path} is a directory")
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is no ordinary file")
    if not path.parent.is_dir():
        raise ModelError(f"the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ModelError(f"the folder {path.parent} is not writable")
    saved, own = as_saved(model, path)
    try:
        content = saved.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{path} cannot be written: {error}") from error
    folder = None if base_dir is None else Path(base_dir)
    pending = pending_files(model, path, folder, link=link)
    if own:
        data = _data_of(path)
        taken = any(target == data for _, target in pending)
        if taken or (data.exists() and not holds(data, own)):
            raise ModelError(
                f"{data} exists and is not the model's external data; remove it, or choose another "
                "output"
            )
    return path, content, pending, own


def _data_of(path: Path) -> Path:
    """Return the file for what a model of onnxfit's has outside."""
    return path.with_name(f"{path.name}.data")
