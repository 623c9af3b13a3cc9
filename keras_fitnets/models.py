"""The paper's networks: a table of their layers, and one function that builds them.

`PLANS` has a `Plan` for each network by name, `build` makes the `keras.Model`.
"""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.layers import Maxout
from keras_fitnets.utils.checks import is_integer

# Pools with a meaning of their own: one over the whole remaining image, and none. A
# pool of side 1 changes nothing, and no pool has the side 0.
ALL, NONE = 0, 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layers of a network, as Romero et al., "FitNets" (arXiv 1412.6550) list them.

    Use it to change one of the paper's networks, or to describe another of their kind,
    and pass it to `build`. The network has convolutions in blocks, a max-pooling at the
    end of each block, a maxout layer of units, and logits.

    Args:
        blocks: for each block the channels of its convolutions, after their maxout.
        pools: for each block the side of its pool in pixels, which is its stride too;
            or a triple of side, stride and padding. 0 is a pool over the whole
            remaining image, 1 is no pool.
        kernels: the side of the kernels in pixels, one for all convolutions or one for
            each.
        padding: the padding of the convolutions, `"same"` or `"valid"`.
        pieces: the pieces of each convolution's maxout; 1 makes it a ReLU.
        units: the units of the maxout layer before the logits; 0 leaves it out.
        unit_pieces: the pieces of that layer.
        initial: the paper's initial weights are uniform between plus and minus this.
        norms: the paper's largest norm of a kernel, for convolutions and for dense
            layers.
        input_shape: the height, width and channels of the paper's images.
        classes: the number of logits.
        teacher: the name of the network's teacher in the paper; None for a teacher.
        hints: the paper's hint layer, in the teacher, and its guided layer.

    Raises:
        ValueError: if there is not one pool for each block, and one kernel for each
            convolution or for all.

    Example:

    >>> PLANS["fitnet1"].blocks, PLANS["fitnet1"].hints
    (((16, 16, 16), (32, 32, 32), (48, 48, 64)), ('conv2', 'conv6'))
    >>> thinner = dataclasses.replace(PLANS["fitnet1"], blocks=((4, 4), (8,), (8,)))
    >>> build(thinner).count_params() < build("fitnet1").count_params()
    True
    """

    blocks: Sequence[Sequence[int]]
    pools: Sequence[Any] = (2, 2, ALL)
    kernels: int | Sequence[int] = 3
    padding: str = "same"
    pieces: int = 2
    units: int = 500
    unit_pieces: int = 2
    initial: float = 0.005
    norms: tuple[float, float] = (0.9, 1.9)
    input_shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 10
    teacher: str | None = None
    hints: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        count = sum(map(len, self.blocks))
        if len(self.pools) != len(self.blocks) or len(self.sides) != count:
            raise ValueError(
                f"A Plan needs a pool for each of its {len(self.blocks)} blocks, and "
                f"one kernel for all or one for each of its {count} convolutions; "
                f"received pools={self.pools!r} and kernels={self.kernels!r}."
            )

    @property
    def sides(self) -> Sequence[int]:
        """The side of each convolution's kernel, in pixels."""
        if isinstance(self.kernels, int):
            return [self.kernels] * sum(map(len, self.blocks))
        return self.kernels


# The arguments that several of the paper's networks share. The teachers are the maxout
# networks of Goodfellow et al. (arXiv 1302.4389).
_MAXOUT: dict[str, Any] = {
    "pools": ((4, 2, "same"), (4, 2, "valid"), (2, 2, "valid")),
    "kernels": (8, 8, 5),
    "unit_pieces": 5,
}
_MNIST: dict[str, Any] = {
    "units": 0,
    "norms": (0.9, 1.9365),
    "input_shape": (28, 28, 1),
}
_AFLW: dict[str, Any] = {
    "padding": "valid",
    "pieces": 1,
    "units": 0,
    "initial": 0.05,
    "input_shape": (16, 16, 3),
    "classes": 1,
}


def _student(
    guided: int,
    *blocks: Sequence[int],
    teacher: str = "cifar_teacher",
    **options: Any,
) -> Plan:
    """Return the plan of a student of which convolution number `guided` is guided."""
    hints = ("conv2", f"conv{guided}")
    return Plan(blocks, teacher=teacher, hints=hints, **options)


PLANS = {
    "cifar_teacher": Plan(((96,), (192,), (192,)), **_MAXOUT),
    "svhn_teacher": Plan(((64,), (128,), (128,)), units=400, **_MAXOUT),
    "mnist_teacher": Plan(((48,), (48,), (24,)), **{**_MAXOUT, **_MNIST}),
    "aflw_teacher": Plan(((128,), (512, 512)), (2, NONE), (3, 2, 5), **_AFLW),
    # Table 7.
    "fitnet1": _student(6, (16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "fitnet2": _student(6, (16, 32, 32), (48, 64, 80), (96, 96, 128)),
    "fitnet3": _student(8, (32, 48, 64, 64), (80,) * 4, (128,) * 3),
    "fitnet4": _student(11, (32, 32, 32, 48, 48), (80,) * 6, (128,) * 6),
    "mnist_fitnet": _student(
        4,
        (16, 16),
        (16, 16),
        (12, 12),
        pools=_MAXOUT["pools"],
        # The kernels are those of the released code. With them the network has the
        # 30,000 weights that the paper states.
        kernels=(5, 3, 5, 3, 3, 3),
        teacher="mnist_teacher",
        **_MNIST,
    ),
    **{
        f"aflw_fitnet{number}": Plan(
            blocks=((first,) + (others,) * 6,),
            pools=(NONE,),
            teacher="aflw_teacher",
            hints=("conv3", "conv5"),
            **_AFLW,
        )
        for number, first, others in ((1, 16, 32), (2, 32, 64))
    },
    # Table 6: equal budgets of multiplications, with 5, 7, 9 and 11 layers.
    "budget30m_5": _student(2, (64,), (64,), (64,)),
    "budget30m_7": _student(4, (16, 32), (32, 64), (64,)),
    "budget30m_9": _student(5, (16, 16), (32, 32, 32), (48, 64)),
    "budget30m_11": _student(7, (16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "budget107m_5": _student(2, (128,), (128,), (128,)),
    "budget107m_7": _student(4, (32, 64), (80, 80), (128,)),
    "budget107m_9": _student(5, (32, 32), (64, 80, 80), (96, 128)),
    "budget107m_11": _student(7, (16, 32, 32), (48, 64, 80), (96, 96, 128)),
}
NAMES = tuple(PLANS)


def build(
    network: str | Plan,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    *,
    initializer: Any = "glorot_uniform",
    max_norm: Any = None,
    unit_pieces: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a network of Romero et al., "FitNets" (arXiv 1412.6550), or of a `Plan`.

    Use it to repeat the paper, or for a convolutional teacher or student of your own.
    The layers `"conv1"`, `"conv2"` and so on return the output of each convolution's
    maxout, or ReLU, and can be hint and guided layers; `"logits"` is the last layer.

    Args:
        network: one of `NAMES`, or a `Plan`.
        input_shape: height, width and channels; by default those of the paper's data.
        classes: the number of logits; by default that of the paper's data.
        initializer: the initializer of all kernels: a Keras initializer, or `"paper"`,
            uniform between plus and minus 0.005, or 0.05 for AFLW.
        max_norm: the largest norm that a kernel may have, taken over all but its last
            axis: two numbers, for convolutions and for dense layers; `"paper"` for the
            paper's, 0.9 and 1.9; or None for no limit.
        unit_pieces: the pieces of the maxout layer before the logits. By default 2 for
            FitNets, which agrees with the paper's numbers of weights, where its text
            says 5.
        name: the name of the model; by default that of the network.

    Returns:
        A `keras.Model` from images `(batch, height, width, channels)` to logits
        `(batch, classes)`.

    Raises:
        TypeError: if `network` is neither a name nor a `Plan`.
        ValueError: if an argument is out of range, or the images are too small for the
            network.

    Example:

    >>> import keras_fitnets as kf
    >>> model = kf.models.build("fitnet1", input_shape=(24, 24, 1), classes=4)
    >>> model.get_layer("conv6").output.shape, model.output.shape
    ((None, 12, 12, 32), (None, 4))
    """
    plan = _get_plan(network)
    arguments: dict[str, Any] = {
        "classes": classes,
        "unit_pieces": unit_pieces,
        "input_shape": input_shape,
    }
    # An argument that is not passed leaves the plan's own value.
    plan = dataclasses.replace(
        plan,
        **{name: value for name, value in arguments.items() if value is not None},
    )
    shape = _check_sizes("input_shape", plan.input_shape, 3)
    [classes] = _check_sizes("classes", [plan.classes], 1)
    [unit_pieces] = _check_sizes("unit_pieces", [plan.unit_pieces], 1)
    if isinstance(initializer, str) and initializer == "paper":
        initializer = keras.initializers.RandomUniform(-plan.initial, plan.initial)
    conv_norm, dense_norm = _get_constraints(max_norm, plan)
    is_channels_first = keras.config.image_data_format() == "channels_first"
    if is_channels_first:
        inputs = keras.Input((shape[2], shape[0], shape[1]))
    else:
        inputs = keras.Input(shape)

    x = inputs
    sides = iter(plan.sides)
    # The convolutions are numbered through all blocks.
    number = 0
    for i, (block, pool) in enumerate(zip(plan.blocks, plan.pools, strict=True), 1):
        for channels in block:
            number += 1
            side = next(sides)
            layer_name = f"conv{number}"
            # The layer that ends with the non-linearity has the name, so that it can be
            # a hint: the maxout, or the convolution itself with its ReLU.
            is_maxout = plan.pieces > 1
            needed = side if plan.padding == "valid" else 1
            _check_room(layer_name, _image_size(x, is_channels_first), needed, shape)
            x = keras.layers.Conv2D(
                channels * plan.pieces,
                side,
                padding=plan.padding,
                activation=None if is_maxout else "relu",
                kernel_initializer=_copy_initializer(initializer),
                kernel_constraint=conv_norm,
                name=f"{layer_name}_pieces" if is_maxout else layer_name,
            )(x)
            if is_maxout:
                axis = 1 if is_channels_first else -1
                x = Maxout(plan.pieces, axis, name=layer_name)(x)
        x = _pool(x, pool, f"pool{i}", _image_size(x, is_channels_first), shape)

    x = keras.layers.Flatten(name="flat")(x)
    if plan.units:
        x = keras.layers.Dense(
            plan.units * unit_pieces,
            kernel_initializer=_copy_initializer(initializer),
            kernel_constraint=dense_norm,
            name="fc_pieces",
        )(x)
        x = Maxout(unit_pieces, name="fc")(x)
    outputs = keras.layers.Dense(
        classes,
        kernel_initializer=_copy_initializer(initializer),
        kernel_constraint=dense_norm,
        name="logits",
    )(x)
    if name is None and isinstance(network, str):
        name = network
    return keras.Model(inputs, outputs, name=name)


def _image_size(x: Any, is_channels_first: bool) -> tuple[int, int]:
    """Return the height and width of a layer's output."""
    return tuple(x.shape[2:] if is_channels_first else x.shape[1:3])


def _pool(x: Any, pool: Any, name: str, size: tuple[int, int], shape: Any) -> Any:
    """Apply the pool at the end of a block, as a `Plan` writes it."""
    if pool == NONE:
        return x
    if pool == ALL:
        return keras.layers.MaxPooling2D(size, name=name)(x)
    if isinstance(pool, int):
        side, stride, padding = pool, pool, "valid"
    else:
        side, stride, padding = pool
    # With the padding "same" Keras fills up whatever the pool lacks.
    _check_room(name, size, side if padding == "valid" else 1, shape)
    return keras.layers.MaxPooling2D(side, stride, padding, name=name)(x)


def _check_room(name: str, size: tuple[int, int], needed: int, shape: Any) -> None:
    """Raise if the image that is left at a layer is smaller than its kernel or pool."""
    if min(size) < needed:
        raise ValueError(
            f"`input_shape` {shape} is too small for this network: at layer {name!r} "
            f"an image of {size} is left, and the layer needs {needed} by {needed}."
        )


def _get_plan(network: Any) -> Plan:
    """Return the plan of a network that is given by name or as a plan."""
    if isinstance(network, Plan):
        return network
    if not isinstance(network, str):
        raise TypeError(
            "The network must be one of keras_fitnets.models.NAMES or a Plan; received "
            f"{network!r}."
        )
    if network not in PLANS:
        # Most wrong names are misspelled ones.
        close = difflib.get_close_matches(network, NAMES, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"There is no network {network!r}.{hint} There are {', '.join(NAMES)}."
        )
    return PLANS[network]


def _check_sizes(argument: str, values: Any, count: int) -> tuple[int, ...]:
    """Return `count` positive integers as a tuple."""
    sizes = tuple(values) if isinstance(values, Sequence) else (values,)
    if len(sizes) != count or not all(is_integer(v) for v in sizes):
        expected = "a positive integer" if count == 1 else f"{count} positive integers"
        received = sizes[0] if len(sizes) == count == 1 else values
        raise ValueError(f"`{argument}` must be {expected}; received {received!r}.")
    return sizes


def _get_constraints(max_norm: Any, plan: Plan) -> tuple[Any, Any]:
    """Return the constraints on the kernels of convolutions and of dense layers."""
    if max_norm is None:
        return None, None
    pair = plan.norms if isinstance(max_norm, str) and max_norm == "paper" else max_norm
    is_sequence = isinstance(pair, Sequence) and not isinstance(pair, str)
    if not is_sequence or len(pair) != 2 or not all(_is_positive(v) for v in pair):
        raise ValueError(
            '`max_norm` must be None, "paper", or two positive numbers, for the '
            f"kernels of convolutions and of dense layers; received {max_norm!r}."
        )
    conv, dense = pair
    # The norm of each filter or unit, which is an entry of the kernel's last axis.
    return (
        keras.constraints.MaxNorm(conv, axis=[0, 1, 2]),
        keras.constraints.MaxNorm(dense, axis=0),
    )


def _is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _copy_initializer(initializer: Any) -> Any:
    """Return an initializer for one layer.

    A Keras initializer draws the same numbers each time it is called, so that layers of
    one shape would begin with the same weights. A copy draws its own.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.clone()
