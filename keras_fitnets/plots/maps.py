"""A hint beside what the student makes of it."""

from typing import Any

import keras
import numpy as np

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.evaluation import EvaluationData
from keras_fitnets.distillation.evaluation import StudentEvaluator
from keras_fitnets.inspection import activations
from keras_fitnets.utils import figures
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import is_integer
from keras_fitnets.utils.figures import create_figure


def hint_maps(
    distiller: Distiller,
    x: Any,
    pair: int = 0,
    channels: int = 4,
    images: int = 3,
    path: Any = None,
) -> Any:
    """Draw the teacher's hint above the student's prediction of it, in one scale.

    `u_h(x)` above `r(v_g(x))`, the two sides of Eq. 3 in Romero et al., "FitNets"
    (arXiv 1412.6550), for the first images of `x`, in inference mode; in the title R²
    over all of `x`, as `StudentMonitor` has it. Drawn are the channels of the hint
    that vary most over the first 32 samples. Of a sequence they are rows over its
    steps, steps that a mask leaves out blank; of a flat layer all units are drawn, with
    a row for each sample; of 3-D maps the middle plane.

    Args:
        distiller: a `Distiller` with hints, in any stage, compiled or not.
        x: inputs, `(samples, ...)`, in the structure that the networks take.
        pair: the position of the pair among `distiller.hints`.
        channels: how many channels are drawn.
        images: how many of the inputs are drawn.
        path: a file to draw in, as Matplotlib takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: without Matplotlib.
        TypeError: if `distiller` is no Distiller, or `x` no array.
        ValueError: if there are no hints, or no such pair, and for inputs that the
            networks do not take.

    Example:

    >>> import keras, numpy as np
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((8, 8, 1)),
    ...         keras.layers.Conv2D(width, 3, name="conv"),
    ...         keras.layers.Flatten(),
    ...         keras.layers.Dense(3),
    ...     ])
    >>> distiller = Distiller(net(16), net(2), hints=("conv", "conv"))
    >>> figure = hint_maps(distiller, np.ones((5, 8, 8, 1)), channels=2, images=1)
    >>> len(figure.axes)  # The image, two maps of each network, and their scale.
    6
    """
    _check(distiller, pair, {"channels": channels, "images": images})
    sample = EvaluationData("hint_maps", x, max(32, images))
    sample.check(distiller)
    look = StudentEvaluator(distiller, sample, "hint", (pair,), eagerly=True)
    [r2] = look.compute().values()
    first = next(iter(sample))
    hint, mask = look.teacher_outputs[0].hints[pair]
    [predicted] = look.regressed(first)
    if mask is not None:
        blanked = np.reshape(mask, mask.shape + (1,) * (hint.ndim - mask.ndim))
        hint, predicted = (np.where(blanked, v, np.nan) for v in (hint, predicted))
    both = [_channels_last(values, distiller, pair) for values in (hint, predicted)]
    liveliest = _liveliest(both[0], channels)
    rows = [_tiles(values[:images], liveliest) for values in both]
    pictures = _pictures(first, min(images, len(sample)))
    figure = _drawn(rows, pictures, both[0].ndim, liveliest)
    chosen = distiller.hints[pair]
    judged = f", R² = {r2:.2f} over {len(sample)} samples" if np.isfinite(r2) else ""
    judged = judged.replace("-", "−")
    title = f"hint {chosen.hint_layer} → guided {chosen.guided_layer}{judged}"
    figure.suptitle(title, fontsize="medium")
    return figures.save_figure(figure, path)


def _check(distiller: Any, pair: Any, counts: dict[str, Any]) -> None:
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`hint_maps` draws the hints of a keras_fitnets.Distiller; received "
            f"{distiller!r}."
        )
    count = len(distiller.hints)
    if not count:
        raise ValueError(
            "This Distiller has no hints to draw. Make it with "
            'hints=("hint_layer", "guided_layer").'
        )
    if not is_integer(pair, minimum=0) or pair >= count:
        known = ", ".join(f"{i}: {hint}" for i, hint in enumerate(distiller.hints))
        raise ValueError(
            f"`pair` must be the position of a pair of hints, counted from 0; received "
            f"{pair!r}. There are {known}."
        )
    for name, value in counts.items():
        check_integer(name, value)


def _channels_last(values: Any, distiller: Distiller, pair: int) -> Any:
    """Features with their channels last; of 3-D maps the middle plane."""
    values = np.asarray(values, "float64")
    hint = distiller.hints[pair]
    network = distiller.teacher.models[hint.member]
    first = activations.data_format(network, hint.hint_layer) == "channels_first"
    if first and values.ndim > 2:
        values = np.moveaxis(values, 1, -1)
    return values[:, values.shape[1] // 2] if values.ndim == 5 else values


def _liveliest(hint: Any, count: int) -> list[int]:
    """The channels that vary most, in their order; of a flat layer all units."""
    if hint.ndim == 2:
        return list(range(hint.shape[1]))
    variance = np.nanvar(hint, axis=tuple(range(hint.ndim - 1)))
    return sorted(np.argsort(-variance, kind="stable")[:count].tolist())


def _tiles(values: Any, channels: list[int]) -> list[list[Any]]:
    """For each row of the figure its pictures."""
    if values.ndim == 2:
        return [[values]]
    if values.ndim == 3:
        return [[one[:, channels].T] for one in values]
    return [[one[..., i] for i in channels] for one in values]


def _pictures(x: Any, count: int) -> list[Any]:
    """The inputs as images, if they are some."""
    arrays = keras.tree.flatten(x)
    if len(arrays) != 1 or arrays[0].ndim not in (3, 4):
        return []
    images = np.asarray(arrays[0][:count], "float64")
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        return []
    low, high = images.min(), images.max()
    return list((images - low) / (high - low or 1.0))


def _drawn(
    rows: list[list[list[Any]]],
    pictures: list[Any],
    dimensions: int,
    channels: list[int],
) -> Any:
    """A figure with a hint's row above its prediction's, for each image."""
    maps, tall = dimensions == 4, len(rows[0][0][0])
    pictures = pictures if maps else []
    blocks, tiles, left = len(rows[0]), len(rows[0][0]), len(pictures[:1])
    high = 1.15 if maps else max(0.8, min(2.5, 0.22 * tall))
    wide = 1.15 * (left + tiles) if maps else 5.5
    figure = create_figure(1.5 + wide, 0.7 + 2 * blocks * high)
    # A little room between the images.
    heights = ([1.0, 1.0, 0.1] * blocks)[:-1]
    grid = figure.add_gridspec(len(heights), left + tiles, height_ratios=heights)
    finite = [tile[np.isfinite(tile)] for row in rows for one in row for tile in one]
    values = np.concatenate(finite)
    options = {
        **{"vmin": values.min(), "vmax": values.max(), "interpolation": "nearest"},
        "aspect": "equal" if maps else "auto",
    }
    shown, drawn = None, []
    for i in range(blocks):
        if pictures:
            axis = figure.add_subplot(grid[3 * i : 3 * i + 2, 0])
            axis.imshow(pictures[i], cmap="gray")
            axis.set(xticks=[], yticks=[], title="" if i else "image")
        for j, side in enumerate(("hint", "regressed")):
            for k, tile in enumerate(rows[j][i]):
                axis = figure.add_subplot(grid[3 * i + j, left + k])
                drawn.append(axis)
                shown = axis.imshow(tile, **options)
                if maps:
                    axis.set(xticks=[], yticks=[])
                    axis.set_title("" if i + j else f"map {channels[k]}")
                else:
                    _label(axis, dimensions, channels, last=2 * i + j == 2 * blocks - 1)
                if k == 0:
                    axis.set_ylabel("\n".join([side, *_ROWS[dimensions]]))
    figure.colorbar(shown, ax=drawn, label="activation")
    return figure


# What is below what in the picture of a flat layer, of a sequence and of a map.
_ROWS = {2: ["sample"], 3: ["channel"], 4: []}


def _label(axis: Any, dimensions: int, channels: list[int], last: bool) -> None:
    """What the rows and columns of a picture are that is no map."""
    from matplotlib import ticker

    if dimensions == 3:
        axis.set_yticks(range(len(channels)), channels)
    else:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.tick_params(labelbottom=last)
    if last:
        axis.set_xlabel("unit" if dimensions == 2 else "step")
