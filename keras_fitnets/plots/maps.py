"""The hint above the student's prediction of it."""

import itertools
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

# What the rows of a picture are, by the number of axes of the hint: a flat layer
# (samples, units), a sequence (samples, steps, channels), or maps.
_ROW_NAMES = {2: ["sample"], 3: ["channel"], 4: []}


def hint_maps(
    distiller: Distiller,
    x: Any,
    pair: int = 0,
    channels: int = 4,
    images: int = 3,
    path: Any = None,
) -> Any:
    """Draw the teacher's hint above the student's prediction of it, in one scale.

    Use it after stage 1, to see what the guided layer has learned. Drawn are `u_h(x)`
    above `r(v_g(x))`, the two sides of Eq. 3 in Romero et al., "FitNets" (arXiv
    1412.6550), for the first inputs in `x`, in inference mode. The title has R² over
    all of `x`, as `StudentMonitor` logs it. The channels are those of the hint that
    vary most over the first 32 samples.

    How a hint is drawn depends on its shape. Of 3-D maps the middle plane is drawn. Of
    a sequence each channel is a row over its steps, and steps that a mask leaves out
    are blank. Of a flat layer all units are drawn, with a row for each sample.

    Args:
        distiller: a `Distiller` with hints, in any stage, compiled or not.
        x: inputs, `(samples, ...)`, in the structure that the networks take.
        pair: the position of the pair in `distiller.hints`.
        channels: the number of channels to draw.
        images: the number of inputs to draw.
        path: a file to save the picture in, as `Figure.savefig` takes it.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: if Matplotlib is not installed.
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
    _check_arguments(distiller, pair, channels, images)
    sample = EvaluationData("hint_maps", x, max(32, images))
    sample.check(distiller)
    evaluator = StudentEvaluator(distiller, sample, "hint", (pair,), eagerly=True)
    [r2] = evaluator.compute().values()
    first_batch = next(iter(sample))
    hint, mask = evaluator.teacher_outputs[0].hints[pair]
    [(prediction, own_mask)] = evaluator.predict_hints(first_batch)
    for one in (mask, own_mask):
        if one is None:
            continue
        # Matplotlib leaves NaN blank, and the scale of colours ignores it.
        is_valid = np.reshape(one, one.shape + (1,) * (hint.ndim - one.ndim))
        hint = np.where(is_valid, hint, np.nan)
        prediction = np.where(is_valid, prediction, np.nan)
    hint = _to_channels_last(hint, distiller, pair)
    prediction = _to_channels_last(prediction, distiller, pair)
    chosen = _choose_channels(hint, channels)
    figure = _draw(
        _split_into_tiles(hint[:images], chosen),
        _split_into_tiles(prediction[:images], chosen),
        _get_images(first_batch, min(images, len(sample))),
        hint.ndim,
        chosen,
    )
    layers = distiller.hints[pair]
    title = f"hint {layers.hint_layer} → guided {layers.guided_layer}"
    if np.isfinite(r2):
        # A minus sign, as Matplotlib writes it on the scale, in place of a hyphen.
        number = f"{r2:.2f}".replace("-", "−")
        title += f", R² = {number} over {len(sample)} samples"
    figure.suptitle(title, fontsize="medium")
    return figures.save_figure(figure, path)


def _check_arguments(distiller: Any, pair: Any, channels: Any, images: Any) -> None:
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`hint_maps` draws the hints of a keras_fitnets.Distiller; received "
            f"{distiller!r}. Pass the Distiller itself."
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
    if not distiller.objective.can_compare[pair]:
        raise ValueError(
            f"{distiller.hints[pair]} compares a hint with a prediction of another "
            "shape, which cannot be drawn beside it. Draw another pair."
        )
    check_integer("channels", channels)
    check_integer("images", images)


def _to_channels_last(values: Any, distiller: Distiller, pair: int) -> Any:
    """Return features with their channels last; of 3-D maps the middle plane."""
    values = np.asarray(values, "float64")
    hint = distiller.hints[pair]
    network = distiller.teacher.models[hint.member]
    data_format = activations.data_format(network, hint.hint_layer)
    if data_format == "channels_first" and values.ndim > 2:
        values = np.moveaxis(values, 1, -1)
    return values[:, values.shape[1] // 2] if values.ndim == 5 else values


def _choose_channels(hint: Any, count: int) -> list[int]:
    """Return the channels that vary most, in ascending order; all of a flat layer."""
    if hint.ndim == 2:
        return list(range(hint.shape[1]))
    variance = np.nanvar(hint, axis=tuple(range(hint.ndim - 1)))
    # The stable order makes equal channels come out the same on every machine.
    return sorted(np.argsort(-variance, kind="stable")[:count].tolist())


def _split_into_tiles(values: Any, channels: list[int]) -> list[list[Any]]:
    """Return a list of pictures for each row of the figure.

    A flat layer is one picture for all samples, a sequence one for each sample, and
    maps are one for each sample and channel.
    """
    if values.ndim == 2:
        return [[values]]
    if values.ndim == 3:
        return [[sample[:, channels].T] for sample in values]
    return [[sample[..., i] for i in channels] for sample in values]


def _get_images(x: Any, count: int) -> list[Any]:
    """Return the first inputs as images between 0 and 1, or none if they are none."""
    arrays = keras.tree.flatten(x)
    if len(arrays) != 1 or arrays[0].ndim not in (3, 4):
        return []
    images = np.asarray(arrays[0][:count], "float64")
    # Grey images have one channel and coloured ones three, in the last axis or, if they
    # are not there, in the first. Anything else cannot be displayed.
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        return []
    low, high = images.min(), images.max()
    return list((images - low) / (high - low or 1.0))


def _draw(
    hint_rows: list[list[Any]],
    prediction_rows: list[list[Any]],
    images: list[Any],
    dimensions: int,
    channels: list[int],
) -> Any:
    """Draw each row of the hint above the same row of its prediction.

    Args:
        hint_rows: the pictures of the hint, as `_split_into_tiles` returns them.
        prediction_rows: those of its prediction.
        images: the inputs, drawn to the left of maps.
        dimensions: the number of axes of the hint.
        channels: the channels that are drawn.
    """
    is_map = dimensions == 4
    images = images if is_map else []
    rows, columns = len(hint_rows), len(hint_rows[0])
    first_column = 1 if images else 0
    # Maps are small squares. Everything else is one wide picture, whose height follows
    # the number of its rows.
    if is_map:
        height, width = 1.15, 1.15 * (first_column + columns)
    else:
        height, width = max(0.8, min(2.5, 0.22 * len(hint_rows[0][0]))), 5.5
    figure = figures.create_figure(1.5 + width, 0.7 + 2 * rows * height)
    # Each row of the figure takes two rows of the grid, and a third one for some room
    # below it, which the last row does not need.
    heights = ([1.0, 1.0, 0.1] * rows)[:-1]
    grid = figure.add_gridspec(
        len(heights), first_column + columns, height_ratios=heights
    )
    # One scale of colours for all pictures, or they could not be compared.
    tiles = itertools.chain(*hint_rows, *prediction_rows)
    values = np.concatenate([np.ravel(tile) for tile in tiles])
    options = {
        "vmin": np.nanmin(values),
        "vmax": np.nanmax(values),
        "interpolation": "nearest",
        "aspect": "equal" if is_map else "auto",
    }
    axes = []
    for i in range(rows):
        if images:
            axis = figure.add_subplot(grid[3 * i : 3 * i + 2, 0])
            axis.imshow(images[i], cmap="gray")
            axis.set(xticks=[], yticks=[], title="" if i else "image")
        sides = {"hint": hint_rows[i], "regressed": prediction_rows[i]}
        for j, (name, row) in enumerate(sides.items()):
            for k, tile in enumerate(row):
                axis = figure.add_subplot(grid[3 * i + j, first_column + k])
                picture = axis.imshow(tile, **options)
                if is_map:
                    axis.set(xticks=[], yticks=[])
                    axis.set_title("" if i + j else f"map {channels[k]}")
                else:
                    is_last = i == rows - 1 and name == "regressed"
                    _label_axis(axis, dimensions, channels, is_last)
                if k == 0:
                    axis.set_ylabel("\n".join([name, *_ROW_NAMES[dimensions]]))
                axes.append(axis)
    figure.colorbar(picture, ax=axes, label="activation")
    return figure


def _label_axis(axis: Any, dimensions: int, channels: list[int], is_last: bool) -> None:
    """Label the rows and columns of a flat layer or a sequence."""
    from matplotlib import ticker

    if dimensions == 3:
        axis.set_yticks(range(len(channels)), channels)
    else:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    # The pictures share their columns, so that labels below the last one are enough.
    axis.tick_params(labelbottom=is_last)
    if is_last:
        axis.set_xlabel("unit" if dimensions == 2 else "step")
