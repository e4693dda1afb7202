"""External data: the weights that a model keeps in other files, checked, placed and read."""

import contextlib
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError
from onnxfit.replacing import replacing


def has_external_data(model: ModelProto) -> bool:
    """Tell whether a tensor of the model lies in another file."""
    return next(_external_tensors(model), None) is not None


def external_files(model: ModelProto, folder: Path) -> list[Path]:
    """List the files in which the model's external data lies.

    Raises:
        ModelError: A path leaves the model's folder.
    """
    return [folder / location for location in _locations(model)]


def check_external_data(model: ModelProto, folder: Path, *, but: str | None = None) -> None:
    """Check that every external file that the model names is there and long enough.

    Args:
        model: The model.
        folder: Of the files.
        but: The location of a file that is elsewhere.

    Raises:
        ModelError: It is not, or its path leaves the model's folder.
    """
    _check({name: size for name, size in _locations(model).items() if name != but}, folder)


def _check(locations: dict[str, int], folder: Path) -> None:
    for location, size in locations.items():
        file = folder / location
        if not file.is_file():
            raise ModelError(f"the external data {location} is not in {folder}")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"the external data {location} is a link that leaves {folder}")
        if (actual := file.stat().st_size) < size:
            raise ModelError(
                f"the external data {location} has {actual} bytes, the model needs {size}"
            )


def take_inside(model: ModelProto, folder: Path, *, but: str | None = None) -> None:
    """Read a model's external data into the model, which must stay below 2 GiB.

    Args:
        model: The model, which is changed.
        folder: Of the external data.
        but: The location of a file whose data stays outside.

    Raises:
        ModelError: It is not there, or its path leaves the model's folder.
    """
    check_external_data(model, folder, but=but)
    for tensor in list(_external_tensors(model)):
        if _place_of(tensor)[0] != but:
            read_inside(tensor, folder)


def read_inside(tensor: TensorProto, folder: Path) -> None:
    """Read the external data of a tensor into it, also where its file has several names.

    Raises:
        ModelError: It is not there, or its path leaves the model's folder.
        OSError: It cannot be read.
    """
    location, offset, length = _place_of(tensor)
    _check({location: offset + (length or 0)}, folder)
    with (folder / location).open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def take_outside(model: ModelProto, location: str, wanted: Iterable[bool]) -> list[bytes]:
    """Let initializers of the main graph be in another file, one behind the other.

    Args:
        model: The model, which is changed.
        location: The file's name.
        wanted: Whether each of them is to go; those that are have raw data.

    Returns:
        What the file is to hold.
    """
    parts: list[bytes] = []
    offset = 0
    for tensor in itertools.compress(model.graph.initializer, wanted):
        parts.append(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        fields = {"location": location, "offset": offset, "length": len(parts[-1])}
        for key, value in fields.items():
            tensor.external_data.add(key=key, value=str(value))
        offset += len(parts[-1])
    return parts


def relocate(model: ModelProto, old: str, new: str) -> None:
    """Let the external data of one location be at another."""
    for tensor in _external_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old:
                entry.value = new


def place_weights(made: Path, target: Path, others: list[Path]) -> None:
    """Move a file of weights to where it is to lie; one of the same content stays.

    Args:
        made: The file, on the same file system.
        target: Its place.
        others: The files of the model that it was made of, which are never touched.

    Raises:
        ModelError: Another file lies there.
    """
    if target.exists():
        if any(_is_same(target, other) for other in others):
            raise ModelError(f"{target} is where the model's external data lies")
        if not target.is_file() or not _same_content(made, target):
            raise ModelError(f"{target} exists and is not the model's external data")
        return
    made.replace(target)


def pending_files(
    model: ModelProto, path: Path, source: Path | None, *, link: bool
) -> list[tuple[Path, Path]]:
    """List the external files to be placed beside ``path``, everything checked."""
    names = _locations(model)
    target = path.parent
    for location in names:
        for taken in (target / location, (source or target) / location):
            if taken.resolve() == path or (taken.exists() and _is_same(taken, path)):
                raise ModelError(f"{path} is where the model's external data lies")
    if not names:
        return []
    if source is None:
        missing = [location for location in names if not (target / location).is_file()]
        if missing:
            raise ModelError(
                f"the model has external data, {missing[0]}, that is not in {target}; "
                "say with base_dir in which folder it is"
            )
        source = target
    _check(names, source)
    pending = []
    for location in names:
        old, new = source / location, target / location
        if not new.resolve().is_relative_to(target.resolve()):
            raise ModelError(f"{new} is a link that leaves {target}")
        if new.is_symlink() or new.exists():
            if not new.exists() or not (new.samefile(old) or _same_content(old, new)):
                raise ModelError(f"{new} exists and is not the model's external data")
            if link or new.resolve() == old.resolve() or not new.samefile(old):
                continue
        # It is missing, or a link where a copy is wanted.
        pending.append((old, new))
    return pending


def _locations(model: ModelProto) -> dict[str, int]:
    """Return the relative path of each external file and the bytes that it must have."""
    sizes: dict[str, int] = {}
    for tensor in _external_tensors(model):
        location, offset, length = _place_of(tensor)
        sizes[location] = max(offset + (length or 0), sizes.get(location, 0))
    return sizes


def _place_of(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Return relative path, offset and length of external data; None is up to the file's end."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    pure = PurePosixPath(location.replace("\\", "/"))
    named = bool(pure.parts) and "\0" not in location and ":" not in pure.parts[0]
    if not named or pure.is_absolute() or ".." in pure.parts:
        raise ModelError(
            f"the external data of {tensor.name!r} has the path {location!r}, "
            "which leaves the model's folder"
        )
    try:
        offset, length = (int(fields.get(key, "0")) for key in ("offset", "length"))
        if offset < 0 or length < 0:
            raise ValueError
    except ValueError:
        raise ModelError(f"the external data of {tensor.name!r} has a bad offset") from None
    return location, offset, length if "length" in fields else None


def _external_tensors(model: ModelProto) -> Iterator[TensorProto]:
    for owner in every_graph(model):
        tensors = [a.t for n in owner.node for a in n.attribute if a.type == AttributeProto.TENSOR]
        if isinstance(owner, GraphProto):
            tensors += owner.initializer
            for sparse in owner.sparse_initializer:
                tensors += [sparse.values, sparse.indices]
        yield from (t for t in tensors if t.data_location == TensorProto.EXTERNAL)


def place(source: Path, target: Path, *, link: bool) -> None:
    """Put a file at another place: a hard link if allowed, else a reflink, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # ONNX Runtime refuses symbolic links, so the link goes to the file behind them.
    source = source.resolve()
    if link:
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
    with replacing(target) as temporary:
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


def holds(file: Path, parts: Sequence[bytes]) -> bool:
    """Tell whether a file is exactly these parts, one behind the other."""
    if not file.is_file() or file.stat().st_size != sum(map(len, parts)):
        return False
    with file.open("rb") as content:
        return all(content.read(len(part)) == part for part in parts)


def _is_same(first: Path, second: Path) -> bool:
    return second.exists() and first.samefile(second)


def _same_content(first: Path, second: Path) -> bool:
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as a, second.open("rb") as b:
        while block := a.read(1 << 20):
            if block != b.read(1 << 20):
                return False
    return True
