"""The paper's networks: a table of their layers, and one builder."""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.layers import Maxout
from keras_fitnets.utils.checks import is_integer

# A pool over all that is left, and none.
ALL, NONE = 0, 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layers of a network, as Romero et al., "FitNets" (arXiv 1412.6550) list them.

    Convolutions in blocks, a max-pooling at the end of each, a maxout layer of units,
    and logits. `build` makes a network of it.

    Args:
        blocks: for each block the channels of its convolutions, after their maxout.
        pools: for each block the side of its pool, which is its stride too; or side,
            stride and padding. 0 is a pool over all that is left, 1 is none.
        kernels: the side of the kernels, of all convolutions or of each.
        padding: that of the convolutions, `"same"` or `"valid"`.
        pieces: of each convolution's maxout; 1 makes it a ReLU.
        units: of the maxout layer before the logits; 0 leaves it out.
        unit_pieces: of that layer.
        initial: the paper's first weights are uniform between plus and minus this.
        norms: the paper's largest norms of a kernel: a convolution's, a dense layer's.
        input_shape: that of the paper's images: height, width, channels.
        classes: the number of logits.
        teacher: the name of the paper's teacher; None for a teacher.
        hints: the paper's hint layer, of the teacher, and guided layer.

    Raises:
        ValueError: for pools or kernels of another number than there is use for.

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
                f"A plan needs a pool for each of its {len(self.blocks)} blocks, and a "
                f"kernel, or one for all, for each of its {count} convolutions; "
                f"received pools={self.pools!r} and kernels={self.kernels!r}."
            )

    @property
    def sides(self) -> Sequence[int]:
        """The side of each convolution's kernel."""
        if isinstance(self.kernels, int):
            return [self.kernels] * sum(map(len, self.blocks))
        return self.kernels


# The maxout networks of Goodfellow et al. (arXiv 1302.4389).
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


def _student(guided: int, *blocks: Sequence[int], **others: Any) -> Plan:
    hints = ("conv2", f"conv{guided}")
    return Plan(
        **{"blocks": blocks, "teacher": "cifar_teacher", "hints": hints, **others}
    )


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
        *(4, (16, 16), (16, 16), (12, 12)),
        pools=_MAXOUT["pools"],
        # Those of the released code, which give the paper's 30,000 weights.
        kernels=(5, 3, 5, 3, 3, 3),
        teacher="mnist_teacher",
        **_MNIST,
    ),
    **{
        f"aflw_fitnet{number}": Plan(
            *(((first,) + (others,) * 6,), (NONE,)),
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
    """Build a network of Romero et al., "FitNets" (arXiv 1412.6550), or of a plan.

    Its layers `"conv1"`, `"conv2"` and so on give what comes out of each convolution's
    maxout, or ReLU, as hint and guided layers; `"logits"` is the last.

    Args:
        network: one of `NAMES`, or a `Plan`.
        input_shape: height, width and channels; by default those of the paper's data.
        classes: the number of logits; by default that of the paper's data.
        initializer: of all kernels: a Keras initializer, or `"paper"`, uniform between
            plus and minus 0.005, or 0.05 for AFLW.
        max_norm: the largest norm that a kernel may have, over all but its last axis: a
            pair, of convolutions and of dense layers; `"paper"`, 0.9 and 1.9; None.
        unit_pieces: of the maxout layer before the logits. By default 2 for FitNets,
            which the paper's numbers of weights imply, where its text says 5.
        name: of the model; by default that of the network.

    Returns:
        A `keras.Model` from images (batch, height, width, channels) to logits (batch,
        classes).

    Raises:
        TypeError, ValueError: for arguments that cannot be meant, and for images that
            are too small for the network.

    Example:

    >>> import keras_fitnets as kf
    >>> model = kf.models.build("fitnet1", input_shape=(24, 24, 1), classes=4)
    >>> model.get_layer("conv6").output.shape, model.output.shape
    ((None, 12, 12, 32), (None, 4))
    """
    plan = _plan(network)
    given: dict[str, Any] = {"classes": classes, "unit_pieces": unit_pieces}
    given["input_shape"] = input_shape
    plan = dataclasses.replace(
        plan, **{k: v for k, v in given.items() if v is not None}
    )
    shape = _sizes("input_shape", plan.input_shape, 3)
    [classes] = _sizes("classes", [plan.classes], 1)
    [unit_pieces] = _sizes("unit_pieces", [plan.unit_pieces], 1)
    if isinstance(initializer, str) and initializer == "paper":
        initializer = keras.initializers.RandomUniform(-plan.initial, plan.initial)
    conv_norm, dense_norm = _norms(max_norm, plan)
    sides = iter(plan.sides)
    first = keras.config.image_data_format() == "channels_first"
    inputs = x = keras.Input((shape[2], *shape[:2]) if first else shape)
    layer = 0
    for at, (block, pool) in enumerate(zip(plan.blocks, plan.pools, strict=True), 1):
        for channels in block:
            layer, side = layer + 1, next(sides)
            label, maxout = f"conv{layer}", plan.pieces > 1
            left = x.shape[2:] if first else x.shape[1:3]
            _check_room(label, left, side if plan.padding == "valid" else 1, shape)
            x = keras.layers.Conv2D(
                channels * plan.pieces,
                side,
                padding=plan.padding,
                activation=None if maxout else "relu",
                kernel_initializer=_fresh(initializer),
                kernel_constraint=conv_norm,
                name=f"{label}_pieces" if maxout else label,
            )(x)
            if maxout:
                x = Maxout(plan.pieces, 1 if first else -1, name=label)(x)
        x = _pooled(x, pool, f"pool{at}", x.shape[2:] if first else x.shape[1:3], shape)
    dense = {"kernel_constraint": dense_norm}
    x = keras.layers.Flatten(name="flat")(x)
    if plan.units:
        x = keras.layers.Dense(
            plan.units * unit_pieces,
            kernel_initializer=_fresh(initializer),
            name="fc_pieces",
            **dense,
        )(x)
        x = Maxout(unit_pieces, name="fc")(x)
    outputs = keras.layers.Dense(
        classes, kernel_initializer=_fresh(initializer), name="logits", **dense
    )(x)
    own = network if isinstance(network, str) else None
    return keras.Model(inputs, outputs, name=name or own)


def _pooled(x: Any, pool: Any, name: str, left: Any, shape: Any) -> Any:
    if pool == NONE:
        return x
    if pool == ALL:
        return keras.layers.MaxPooling2D(tuple(left), name=name)(x)
    size, stride, padding = (pool, pool, "valid") if isinstance(pool, int) else pool
    _check_room(name, left, size if padding == "valid" else 1, shape)
    return keras.layers.MaxPooling2D(size, stride, padding, name=name)(x)


def _check_room(name: str, left: Any, side: int, shape: Any) -> None:
    if min(left) < side:
        raise ValueError(
            f"`input_shape` {shape} is too small for this network: {tuple(left)} is "
            f"what is left of it at layer {name!r}, which needs {side} by {side}."
        )


def _plan(network: Any) -> Plan:
    if isinstance(network, Plan):
        return network
    if not isinstance(network, str):
        raise TypeError(
            "The network must be one of keras_fitnets.models.NAMES or a Plan; received "
            f"{network!r}."
        )
    if network not in PLANS:
        close = difflib.get_close_matches(network, NAMES, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"There is no network {network!r}.{hint} There are {', '.join(NAMES)}."
        )
    return PLANS[network]


def _sizes(argument: str, values: Any, count: int) -> tuple[int, ...]:
    sizes = tuple(values) if isinstance(values, Sequence) else (values,)
    if len(sizes) != count or not all(is_integer(v) for v in sizes):
        what = "a positive integer" if count == 1 else f"{count} positive integers"
        shown = sizes[0] if len(sizes) == count == 1 else values
        raise ValueError(f"`{argument}` must be {what}; received {shown!r}.")
    return sizes


def _norms(max_norm: Any, plan: Plan) -> tuple[Any, Any]:
    """The constraints of convolutions and of dense layers."""
    if max_norm is None:
        return None, None
    pair = plan.norms if isinstance(max_norm, str) and max_norm == "paper" else max_norm
    numbers = isinstance(pair, Sequence) and not isinstance(pair, str)
    if not numbers or len(pair) != 2 or not all(_is_positive(v) for v in pair):
        raise ValueError(
            '`max_norm` must be None, "paper", or two positive numbers, of the kernels '
            f"of convolutions and of dense layers; received {max_norm!r}."
        )
    conv, dense = pair
    MaxNorm = keras.constraints.MaxNorm
    return MaxNorm(conv, axis=[0, 1, 2]), MaxNorm(dense, axis=0)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _fresh(initializer: Any) -> Any:
    """One for each layer: a Keras initializer draws the same numbers again."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.clone()
