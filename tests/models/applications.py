"""Tiny networks of the families of keras.applications.

The public constructors make networks of millions of weights. The functions behind them
make the same blocks as narrow and as few as a test needs. They have no dropout: Keras
does not save where its random numbers were, so a loaded network would drop others.
"""

import keras
from keras.src.applications import convnext
from keras.src.applications import densenet
from keras.src.applications import efficientnet_v2
from keras.src.applications import nasnet
from keras.src.applications import resnet

SHAPE = (32, 32, 3)
CLASSES = 4


def create_mobilenet_v2(size, **options):
    return keras.applications.MobileNetV2(alpha=0.35 if size == 1 else 0.5, **options)


def create_mobilenet_v3(size, **options):
    return keras.applications.MobileNetV3Small(
        alpha=0.25 * size, dropout_rate=0, **options
    )


def create_efficientnet_v2(size, **options):
    block = {"kernel_size": 3, "num_repeat": size, "strides": 2}
    first = {"input_filters": 8, "output_filters": 8, "expand_ratio": 1}
    second = {"input_filters": 8, "output_filters": 16, "expand_ratio": 2}
    third = {"input_filters": 16, "output_filters": 16, "expand_ratio": 2}
    blocks = [
        block | first | {"se_ratio": 0, "conv_type": 1, "strides": 1},
        block | second | {"se_ratio": 0, "conv_type": 1},
        block | third | {"se_ratio": 0.25, "conv_type": 0},
    ]
    return efficientnet_v2.EfficientNetV2(
        width_coefficient=size,
        depth_coefficient=1,
        default_size=SHAPE[0],
        dropout_rate=0,
        drop_connect_rate=0,
        blocks_args=blocks,
        **options,
    )


def create_resnet_v2(size, **options):
    def stack(x):
        x = resnet.stack_residual_blocks_v2(x, 4 * size, size + 1, name="conv2")
        return resnet.stack_residual_blocks_v2(x, 8 * size, 2, 1, name="conv3")

    return resnet.ResNet(stack, preact=True, use_bias=True, **options)


def create_densenet(size, **options):
    return densenet.DenseNet([size] * 4, **options)


def create_convnext(size, **options):
    # Keras compiles its convolutions anew in each eager step: as few as there can be.
    return convnext.ConvNeXt([1] * 4, [8 * size] + [16 * size] * 3, **options)


def create_nasnet(size, **options):
    return nasnet.NASNet(
        penultimate_filters=96 * size,
        num_blocks=1,
        stem_block_filters=8,
        skip_reduction=False,
        default_size=SHAPE[0],
        **options,
    )


# Of each family the function, and a hint: the end of a block near the middle.
FAMILIES = {
    "mobilenet_v2": (create_mobilenet_v2, "block_8_add"),
    "mobilenet_v3": (create_mobilenet_v3, "expanded_conv_5_add"),
    "efficientnet_v2": (create_efficientnet_v2, "block2a_project_bn"),
    "resnet_v2": (create_resnet_v2, "conv2_block2_out"),
    "densenet": (create_densenet, "conv3_block1_concat"),
    "convnext": (create_convnext, "convnext_stage_1_block_0_layer_scale"),
    "nasnet": (create_nasnet, "normal_concat_0"),
}


def create_network(family, size, **options):
    """Return a network of a family, of size 1 or 2, that gives logits."""
    create, _ = FAMILIES[family]
    options = {"include_top": True, "classifier_activation": None} | options
    network = create(size, input_shape=SHAPE, weights=None, classes=CLASSES, **options)
    network.name = f"{family}_{size}"
    return network


def create_nested(family, size):
    """Return a network whose backbone, without its top, stands in front of a head."""
    backbone = create_network(family, size, include_top=False)
    inputs = keras.Input(SHAPE)
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(pooled))
