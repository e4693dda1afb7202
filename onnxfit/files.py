"""Read and write ONNX files: whole or not at all, weights in external files left where they are."""

import codecs
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxfit.errors import ModelError

_PROTOBUF_LIMIT = 2**31
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
    as a hard link if the file system can, else as a reflink, else as a copy.

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
    placed: list[Path] = []
    try:
        path, content, pending = _prepared(model, Path(path), base_dir)
        for source, target in pending:
            _place(source, target, link=not copy_data)
            placed.append(target)
        with _replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        for target in placed:
            target.unlink()
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error


def check_writable(model: ModelProto, path: str | Path, base_dir: str | Path | None = None) -> None:
    """Raise what :func:`save` would raise, and write nothing."""
    _prepared(model, Path(path), base_dir)


@contextlib.contextmanager
def temporary_file(model: ModelProto, folder: Path) -> Iterator[Path]:
    """Give a file of the model in a folder, for as long as the context lasts."""
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".onnx")
    except OSError as error:
        raise ModelError(f"{folder} takes no temporary file: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(model.SerializeToString())
        yield Path(name)
    finally:
        Path(name).unlink()


def _prepared(
    model: ModelProto, path: Path, base_dir: str | Path | None
) -> tuple[Path, bytes, list[tuple[Path, Path]]]:
    """Check that a model can be saved; return where, its bytes and the external files to place."""
    path = path.resolve()
    if path.is_dir():
        raise ModelError(f"{path} is a directory")
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is no ordinary file")
    if not path.parent.is_dir():
        raise ModelError(f"the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ModelError(f"the folder {path.parent} is not writable")
    try:
        content = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{path} cannot be written: {error}") from error
    folder = None if base_dir is None else Path(base_dir)
    for location in _locations(model):
        for taken in (path.parent / location, (folder or path.parent) / location):
            if taken.resolve() == path or (path.exists() and _is_same(taken, path)):
                raise ModelError(f"{path} is where the model's external data lies")
    return path, content, _external_files(model, path.parent, folder)


def _is_same(first: Path, second: Path) -> bool:
    return first.exists() and first.samefile(second)


def check_external_data(model: ModelProto, folder: Path) -> None:
    """Check that every external file that the model names is there and long enough.

    Raises:
        ModelError: It is not, or its path leaves the model's folder.
    """
    for location, size in _locations(model).items():
        file = folder / location
        if not file.is_file():
            raise ModelError(f"the external data {location} is not in {folder}")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"the external data {location} is a link that leaves {folder}")
        if (actual := file.stat().st_size) < size:
            raise ModelError(
                f"the external data {location} has {actual} bytes, the model needs {size}"
            )


def has_external_data(model: ModelProto) -> bool:
    """Tell whether a tensor of the model lies in another file."""
    return next(_external_tensors(model), None) is not None


def _external_files(
    model: ModelProto, target: Path, source: Path | None
) -> list[tuple[Path, Path]]:
    """List the external files to be placed in the target folder, everything checked."""
    locations = _locations(model)
    if not locations:
        return []
    if source is None:
        missing = [location for location in locations if not (target / location).is_file()]
        if missing:
            raise ModelError(
                f"the model has external data, {missing[0]}, that is not in {target}; "
                "say with base_dir in which folder it is"
            )
        source = target
    check_external_data(model, source)
    pending = []
    for location in locations:
        old, new = source / location, target / location
        if new.is_symlink() or new.exists():
            if not new.exists() or not (new.samefile(old) or _same_content(old, new)):
                raise ModelError(f"{new} exists and is not the model's external data")
        else:
            pending.append((old, new))
    return pending


def _locations(model: ModelProto) -> dict[str, int]:
    """Return the relative path of each external file and the bytes that it must have."""
    locations: dict[str, int] = {}
    for tensor in _external_tensors(model):
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        pure = PurePosixPath(location.replace("\\", "/"))
        if not location or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
            raise ModelError(
                f"the external data of {tensor.name!r} has the path {location!r}, "
                "which leaves the model's folder"
            )
        try:
            end = int(fields.get("offset", "0")) + int(fields.get("length", "0"))
        except ValueError:
            raise ModelError(f"the external data of {tensor.name!r} has a bad offset") from None
        locations[location] = max(end, locations.get(location, 0))
    return locations


def _external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    tensors = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    yield from (t for t in tensors if t.data_location == TensorProto.EXTERNAL)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: "Iterator[NodeProto] | list[NodeProto]") -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                if attribute.t.data_location == TensorProto.EXTERNAL:
                    yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from _graph_tensors(attribute.g)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` that takes its place at the end."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _place(source: Path, target: Path, *, link: bool) -> None:
    """Put a file at another place: a hard link if allowed, else a reflink, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # ONNX Runtime refuses symbolic links, so the link goes to the file behind them.
    source = source.resolve()
    if link:
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
    with _replacing(target) as temporary:
        if not _reflink(source, temporary):
            shutil.copyfile(source, temporary)


def _reflink(source: Path, target: Path) -> bool:
    """Clone a file where the file system can share its blocks (Linux)."""
    try:
        import fcntl
    except ImportError:
        return False
    ficlone = 0x40049409
    try:
        with source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new.fileno(), ficlone, old.fileno())
    except OSError:
        return False
    return True


def _same_content(first: Path, second: Path) -> bool:
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as a, second.open("rb") as b:
        while block := a.read(1 << 20):
            if block != b.read(1 << 20):
                return False
    return True
