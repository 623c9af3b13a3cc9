"""A public teacher and a small student for CIFAR-10, both residual networks.

The teacher is ResNet-56 of He et al., "Deep Residual Learning" (arXiv 1512.03385), with
the weights of https://github.com/akamaster/pytorch_resnet_cifar10. The student is
ResNet-8, the image classifier of MLPerf Tiny (arXiv 2106.07597), without its softmax.
"""

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import keras
import numpy as np
from keras import layers

SHAPE, CLASSES = (32, 32, 3), 10
STAGES = (16, 32, 64)
# Of the images in [0, 1] that the teacher was trained on.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The ends of the networks' stages.
TEACHER_LAYERS = ("layer1", "layer2", "layer3")
STUDENT_LAYERS = ("stage1", "stage2", "stage3")


def normalize(images):
    """Return images of pixels from 0 to 1 as both networks take them."""
    return ((images - np.float32(MEAN)) / np.float32(DEVIATION)).astype("float32")


def create_resnet56(path):
    """Return ResNet-56 with the weights in an `.npz` file.

    PyTorch pads an image by one pixel on each side where Keras' `padding="same"` would
    pad, with a stride of 2, at the end alone.
    """
    weights = np.load(path)
    loaded = []

    def conv(x, filters, stride, name):
        x = layers.ZeroPadding2D(1)(x)
        layer = layers.Conv2D(filters, 3, stride, use_bias=False)
        # PyTorch's kernels are (outputs, inputs, rows, columns).
        loaded.append((layer, [weights[f"{name}.weight"].transpose(2, 3, 1, 0)]))
        return layer(x)

    def norm(x, name):
        layer = layers.BatchNormalization(epsilon=1e-5)
        kinds = ("weight", "bias", "running_mean", "running_var")
        loaded.append((layer, [weights[f"{name}.{kind}"] for kind in kinds]))
        return layer(x)

    def shortcut(x, filters):
        # Type A: every second pixel, and channels of zeros on both sides.
        more = (filters - x.shape[-1]) // 2
        return keras.ops.pad(x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (more, more)])

    inputs = keras.Input(SHAPE)
    x = layers.ReLU()(norm(conv(inputs, STAGES[0], 1, "conv1"), "bn1"))
    for s, filters in enumerate(STAGES):
        for b in range(9):
            name = f"layer{s + 1}.{b}"
            stride = 2 if s > 0 and b == 0 else 1
            y = norm(conv(x, filters, stride, f"{name}.conv1"), f"{name}.bn1")
            y = norm(conv(layers.ReLU()(y), filters, 1, f"{name}.conv2"), f"{name}.bn2")
            x = layers.Add()([y, x if stride == 1 else shortcut(x, filters)])
            x = layers.ReLU(name=TEACHER_LAYERS[s] if b == 8 else None)(x)
    output = layers.Dense(CLASSES)
    kernel, bias = weights["linear.weight"].T, weights["linear.bias"]
    loaded.append((output, [kernel, bias]))
    x = output(layers.GlobalAveragePooling2D()(x))
    network = keras.Model(inputs, x, name="resnet56")
    for layer, values in loaded:
        layer.set_weights(values)
    return network


def create_resnet8():
    """Return ResNet-8, which gives logits."""
    regularizer = keras.regularizers.L2(1e-4)

    def conv(x, filters, size=3, stride=1):
        return layers.Conv2D(
            *(filters, size, stride, "same"),
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
        )(x)

    inputs = keras.Input(SHAPE)
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, STAGES[0])))
    for s, filters in enumerate(STAGES):
        stride = 1 if s == 0 else 2
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, 3, stride)))
        y = layers.BatchNormalization()(conv(y, filters))
        x = layers.Add()([y, x if s == 0 else conv(x, filters, 1, stride)])
        x = layers.ReLU(name=STUDENT_LAYERS[s])(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(CLASSES, kernel_initializer="he_normal")(x)
    return keras.Model(inputs, x, name="resnet8")
