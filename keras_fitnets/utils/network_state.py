"""All of a network's state in one file, whatever its layers keep besides weights.

Vocabularies and other tables of lookup layers are no variables, so that a file of
weights does not hold them; see https://github.com/tensorflow/tensorflow/issues/56054.
Keras writes them as assets, in whole `.keras` files alone.
"""

from pathlib import Path
from typing import Any

import keras


class NetworkState(keras.Model):
    """Has Keras save a network's state in a file that says nothing of its layers.

    Args:
        network: the network, built.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        self.network = network
        # Keras would warn of a model that has never been called.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {}


def save_state(network: keras.Model, path: Path) -> None:
    """Write weights, and whatever else the layers save, to a `.keras` file."""
    NetworkState(network).save(path)


def load_state(network: keras.Model, path: Path) -> None:
    """Load a file that `save_state` has written into a network of the same layers.

    Raises:
        ValueError: if a part of the file does not fit the network.
    """
    state = NetworkState(network)

    # Keras makes a new model by this class, and then loads the state into it: here it
    # is given the network that is there already.
    class LoadedState(NetworkState):
        @classmethod
        def from_config(cls, config: Any, custom_objects: Any = None) -> NetworkState:
            return state

    keras.saving.load_model(
        path, custom_objects={NetworkState.__name__: LoadedState}, compile=False
    )
