"""Images denoised in front of a network."""

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto

from onnxfit import passes, rewrites
from onnxfit.data import Bounds
from onnxfit.files import editable
from onnxfit.passes.total_variation import KEY, TotalVariation, find_images, put_in_front
from onnxfit.passes.units import Units
from onnxfit.record import source_of


def denoise(  # noqa: PLR0913 - the options of the verb
    model: ModelProto | str | Path,
    weight: float,
    *,
    steps: int = 50,
    keep: float = 1.0,
    seed: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    base_dir: str | Path | None = None,
) -> ModelProto:
    """Minimise the total variation of images in front of a network.

    With all pixels kept, ``scikit-image``'s ``denoise_tv_chambolle(…, eps=0)`` gives the same; see
    :mod:`onnxfit.passes.chambolle`. Standard operators alone are added, with a ``Loop``. The
    graph's input stays as it is, and :func:`onnxfit.restore` takes the rest out.

    Args:
        model: A model of images, N×C×H×W or N×H×W, hardened or not, which stays untouched, or its
            path. Three axes are taken as N×H×W, whatever they hold. An earlier denoising is
            replaced.
        weight: λ, in units of ``bounds``: the larger, the smoother.
        steps: How many iterations, counted as there: with all pixels kept the first is the image
            itself, so that it takes 2.
        keep: Which share of the pixels is kept; the others are dropped and filled in.
        seed: Of the mask of pixels kept, which is then fixed in the file; without it each run
            draws another one for each sample.
        bounds: Smallest and largest value of a pixel.
        mean: Subtracted from pixels before the model, one or for each channel.
        std: Divides after that.
        base_dir: Folder of the external data of a model that is no path.

    Raises:
        ModelError: The model cannot be read, has no one input of images, was interpolated, or
            leaves the size of the images open that a fixed mask needs; or it uses names that begin
            with ``onnxfit.denoising/``.
        ValueError: A setting is out of its range.
    """
    how = TotalVariation(weight=weight, steps=steps, keep=keep, seed=seed)
    units = Units(bounds=bounds, mean=mean, std=std)
    edited, digest = editable(model, base_dir)
    about = {"source_sha256": source_of(edited) or digest}
    # What rewrites note names what nodes read, which is another value from now on.
    names = rewrites.names_of(edited)
    rewrites.take_back(edited)
    passes.make_room(edited, KEY)
    put_in_front(edited, find_images(edited), how, units, about)
    if names:
        rewrites.apply(edited, names)
    return edited
