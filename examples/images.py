"""CIFAR-10 as the paper prepares it, once for whatever is done with it."""

import keras
import numpy as np

import keras_fitnets as kf


def prepared(path, data_dir, side=32):
    """Images and labels of the paper's splits: contrast normalised, then whitened."""
    if not path.exists():
        halve = keras.layers.AveragePooling2D(32 // side)
        contrast = kf.datasets.GlobalContrastNormalization()
        whiten = kf.datasets.ZCAWhitening()
        arrays = {}
        for part, split in kf.datasets.splits("cifar10").items():
            data = kf.datasets.load("cifar10", split, 1000, False, data_dir=data_dir)
            pairs = [(contrast(halve(x)), y) for x, y in data]
            images = np.concatenate([x for x, _ in pairs])
            if part == "train":
                whiten.adapt(images)
            batches = np.split(images, len(images) // 1000)
            arrays[part] = np.concatenate([whiten(x) for x in batches])
            arrays[f"{part} labels"] = np.concatenate([y for _, y in pairs])
        # Beside it first: a file that was cut short would be taken for whole.
        beside = path.with_name(f"unfinished {path.name}")
        np.savez(beside, **arrays)
        beside.replace(path)
    found = np.load(path)
    parts = kf.datasets.splits("cifar10")
    return {part: (found[part], found[f"{part} labels"]) for part in parts}
