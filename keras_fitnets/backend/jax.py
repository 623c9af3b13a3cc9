"""How a step runs on JAX: as a pure function from one state to the next.

Inside a `keras.StatelessScope` a variable reads the value that the scope holds for it,
and an assignment replaces that value; the variable itself is not touched. What is read
of a variable that the scope does not know becomes a constant of the compiled program:
later changes of it would go unnoticed. So the state holds all variables that a step may
read, the teacher's among them.
"""

import contextlib
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np

from keras_fitnets.backend.common import flatten_tensors
from keras_fitnets.backend.common import from_tf_dataset
from keras_fitnets.backend.common import get_strategy
from keras_fitnets.backend.common import num_replicas
from keras_fitnets.utils import keras_private
from keras_fitnets.utils.keras_private import get_mask
from keras_fitnets.utils.keras_private import in_stateless_scope
from keras_fitnets.utils.keras_private import leave_stateless_scope
from keras_fitnets.utils.keras_private import set_mask_and_logits


class _Scope(keras.StatelessScope):
    """The values of a step's variables; it remembers which of them were read.

    Args:
        variables: all variables that the step may read or assign.
        values: the value of each.
    """

    def __init__(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        pairs = list(zip(variables, values, strict=True))
        super().__init__(state_mapping=pairs, collect_losses=True)
        self.variables = list(variables)
        self.read: set[int] = set()

    def get_current_value(self, variable: Any) -> Any:
        self.read.add(id(variable))
        return super().get_current_value(variable)

    def values(self, variables: Sequence[Any] | None = None) -> list[Any]:
        """Return the present values of all variables, or of these."""
        wanted = self.variables if variables is None else variables
        return [super(_Scope, self).get_current_value(one) for one in wanted]


# The scopes of the step that is being traced, the innermost last.
_scopes: list[_Scope] = []


@contextlib.contextmanager
def _enter(scope: _Scope) -> Any:
    _scopes.append(scope)
    try:
        with scope:
            yield scope
    finally:
        _scopes.pop()


def run_step(
    model: keras.Model, step: Callable[[Any], Any], state: Any, data: Any
) -> Any:
    """Run a training or test step, and return what Keras' trainer expects of it.

    Args:
        model: the model.
        step: the step: a function of the data that assigns to the variables.
        state: the values of the model's variables, of the optimizer's in a training
            step, and of the metrics', as Keras' trainer passes them.
        data: a batch.

    Returns:
        The logs of the step, and the new state.
    """
    groups = _list_variables(model, len(state))
    variables = [variable for group in groups for variable in group]
    values = [value for group in state for value in group]
    with _enter(_Scope(variables, values)) as scope:
        logs = step(data)
    return logs, tuple(scope.values(group) for group in groups)


def keep_variables(model: keras.Model, function: Callable[..., Any]) -> Any:
    """Return a step of Keras' trainer that leaves variables their values if it fails.

    Keras takes the values out of the variables before the first step of an epoch, so
    that they are not in memory twice. An error in that step would lose them.

    Args:
        model: the model whose step it is.
        function: the step: a function of the state and of an iterator.
    """

    def step(state: Any, iterator: Any) -> Any:
        try:
            return function(state, iterator)
        except BaseException:
            groups = _list_variables(model, len(state))
            for variables, values in zip(groups, state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    # An error in the midst of a step has used the values up.
                    if not value.is_deleted():
                        variable.assign(value)
            raise

    return step


def _list_variables(model: keras.Model, count: int) -> list[list[Any]]:
    """Return the variables of a state, in its groups, of which a training has four."""
    optimizer = [model.optimizer.variables] if count == 4 else []
    return [
        *(model.trainable_variables, model.non_trainable_variables),
        *(*optimizer, model.metrics_variables),
    ]


def compute_gradients(
    function: Callable[[], tuple[Any, Any]], variables: Sequence[Any], first: Any
) -> tuple[list[Any], Any]:
    """Differentiate a loss with respect to variables; see `tensorflow.py`."""
    outer = _scopes[-1]
    everything, known = outer.variables, outer.values()
    places = {id(variable): place for place, variable in enumerate(everything)}
    wanted = [places[id(variable)] for variable in variables]
    read: set[int] = set()

    def run(values: Sequence[Any]) -> Any:
        present = list(known)
        for place, value in zip(wanted, values, strict=True):
            present[place] = value
        with _enter(_Scope(everything, present)) as scope:
            loss, others = function()
        read.update(scope.read)
        # A mask is attached to a tensor, and JAX returns other tensors than these.
        masks = [get_mask(tensor) for tensor in keras.tree.flatten(others)]
        return loss, (others, masks, scope.values())

    differentiate = jax.value_and_grad(run, has_aux=True)
    values = [known[place] for place in wanted]
    (_, (others, masks, updated)), gradients = differentiate(values)
    for tensor, mask in zip(keras.tree.flatten(others), masks, strict=True):
        set_mask_and_logits(tensor, mask, None)
    for variable, value in zip(everything, updated, strict=True):
        outer.add_update((variable, value))
    # JAX has a gradient of zero where the loss does not depend on a variable. An
    # optimizer would still decay that variable, and move it by its momentum.
    return [
        gradient if id(variable) in read else None
        for gradient, variable in zip(gradients, variables, strict=True)
    ], others


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    everything: Sequence[Any],
) -> None:
    """Let an optimizer update variables; see `tensorflow.py`."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply(gradients, variables)
        return
    # Its `apply` assigns inside of a condition, from which no assignment gets out.
    own = optimizer.variables
    by_id = {id(v): g for v, g in zip(variables, gradients, strict=True)}
    with warnings.catch_warnings():
        # The variables that a stage does not train have none.
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        trained, state = optimizer.stateless_apply(
            [variable.value for variable in own],
            [by_id.get(id(variable)) for variable in everything],
            [variable.value for variable in everything],
        )
    for variable, value in zip([*everything, *own], [*trained, *state], strict=True):
        variable.assign(value)


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Keep no operations of this block for gradients."""
    # JAX differentiates with respect to what it is told, and drops what is not needed.
    return contextlib.nullcontext()


def keep_logits(
    get_layers: Callable[[], Sequence[Any]],
) -> contextlib.AbstractContextManager[Any]:
    """Keep the logits behind the probabilities that these layers compute."""
    return keras_private.keep_logits(get_layers())


def outside_step() -> contextlib.AbstractContextManager[Any]:
    """Read the true values of variables inside of this block, also within a step."""
    return leave_stateless_scope()


def is_traced() -> bool:
    """Whether a step is being traced, so that tensors have no values."""
    return in_stateless_scope()


def sync_variables(model: keras.Model) -> None:
    """Let variables hold the values of the last step, within an epoch too."""
    # Keras keeps the state apart from the variables until an epoch ends. A step that
    # is being traced has no values to give.
    if not _scopes:
        model.jax_state_sync()


def is_stateless() -> bool:
    """Whether a step must be given the values of all variables that it reads."""
    return True


def compile_function(
    function: Callable[..., Any], variables: Sequence[Any], fold: bool = False
) -> Callable[..., Any]:
    """Return a function that changes no variable, compiled; see `tensorflow.py`.

    XLA makes one program for each shape of the arguments.
    """

    @jax.jit
    def run(values: Sequence[Any], *arguments: Any) -> Any:
        with _enter(_Scope(variables, values)):
            return function(*arguments)

    def run_with_values(*arguments: Any) -> Any:
        # The program would keep the first values, if they were not arguments.
        return run([variable.value for variable in variables], *arguments)

    return run_with_values


def describe_outputs(compiled: Callable[..., Any], *arguments: Any) -> Any:
    """Return specifications of what a compiled function returns for such arguments."""
    return jax.eval_shape(compiled, *arguments)


def get_random_state() -> dict[str, Any]:
    """Return the state of random numbers that are in no variable, as arrays.

    Keras shuffles arrays by NumPy's generator.
    """
    _, keys, *numbers = np.random.get_state()  # noqa: NPY002
    return {"keys": keys, "numbers": np.array(numbers)}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where `get_random_state` was called."""
    if state:
        place, has_gauss, gauss = state["numbers"]
        legacy = ("MT19937", state["keys"], int(place), int(has_gauss), gauss)
        np.random.set_state(legacy)  # noqa: NPY002


def widest_float() -> str:
    """Return the floating dtype of most digits that is switched on."""
    return jax.dtypes.canonicalize_dtype("float64").name
