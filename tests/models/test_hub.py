"""Networks of KerasHub as teachers and students, where it is installed."""

import journey
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fitnets as kf

keras_hub = pytest.importorskip("keras_hub")
hub = keras_hub.models

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.slow,
    # Keras warns of each task of KerasHub that is loaded, alone as in a Distiller.
    pytest.mark.filterwarnings(
        "ignore:`compile\\(\\)` was not called as part of model"
    ),
]

SHAPE, CLASSES = (32, 32, 3), 4
STEPS, VOCABULARY = 10, 40
SIZES = (2, 1)


# Networks, of size 1 or 2


def create_resnet_backbone(size, blocks):
    return hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 16 * size],
        stackwise_num_blocks=blocks,
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=SHAPE,
    )


def create_resnet(size, **options):
    backbone = create_resnet_backbone(size, [size, 1])
    return hub.ResNetImageClassifier(backbone, CLASSES, **options)


def create_vit(size):
    backbone = hub.ViTBackbone(SHAPE, (8, 8), size + 1, 2, 8 * size, 16 * size)
    return hub.ViTImageClassifier(backbone, CLASSES)


def create_deeplab(size):
    encoder = create_resnet_backbone(size, [1, size])
    backbone = hub.DeepLabV3Backbone(
        encoder, "P3", 2, [2, 4], "P2", 8, image_shape=SHAPE
    )
    return hub.DeepLabV3ImageSegmenter(backbone, CLASSES)


def create_segformer(size):
    encoder = hub.MiTBackbone(
        [size, size],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=SHAPE,
        hidden_dims=[8 * size, 16 * size],
    )
    backbone = hub.SegFormerBackbone(encoder, projection_filters=16)
    return hub.SegFormerImageSegmenter(backbone, CLASSES)


def text_sizes(size):
    return {
        "vocabulary_size": VOCABULARY,
        "num_layers": size,
        "hidden_dim": 8 * size,
        "intermediate_dim": 16 * size,
    }


def create_bert(size):
    sizes = text_sizes(size) | {"num_heads": 2, "dropout": 0.0}
    backbone = hub.BertBackbone(**sizes, max_sequence_length=STEPS)
    return hub.BertTextClassifier(backbone, CLASSES, dropout=0.0)


def create_roberta(size):
    sizes = text_sizes(size) | {"num_heads": 2, "dropout": 0.0}
    backbone = hub.RobertaBackbone(**sizes, max_sequence_length=STEPS)
    return hub.RobertaTextClassifier(backbone, CLASSES)


def create_gpt2(size):
    sizes = text_sizes(size) | {"num_heads": 2, "dropout": 0.0}
    backbone = hub.GPT2Backbone(**sizes, max_sequence_length=STEPS)
    return hub.GPT2CausalLM(backbone)


def create_llama(size):
    heads = {"num_query_heads": 2, "num_key_value_heads": 1}
    return hub.LlamaCausalLM(hub.LlamaBackbone(**text_sizes(size), **heads))


def create_gemma(size):
    heads = {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return hub.GemmaCausalLM(hub.GemmaBackbone(**text_sizes(size), **heads))


# Their data


def images(labels_shape=()):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (journey.SAMPLES, *SHAPE)).astype("float32")
    return x, rng.integers(CLASSES, size=(journey.SAMPLES, *labels_shape))


def texts(has_segments=False, padding_token=0):
    """Texts of other lengths, filled up with a token, and what is text in them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, STEPS, size=(journey.SAMPLES, 1))
    mask = (np.arange(STEPS) < lengths).astype("int32")
    tokens = rng.integers(1, VOCABULARY, size=mask.shape)
    tokens = np.where(mask, tokens, padding_token).astype("int32")
    x = {"token_ids": tokens, "padding_mask": mask}
    if has_segments:
        x["segment_ids"] = np.zeros_like(tokens)
    return x, mask.astype("float32")


def create_distiller(create):
    return journey.create_distiller(*map(create, SIZES), "middle")


@pytest.mark.parametrize(
    "create, ending", [(create_resnet, ".tflite"), (create_vit, ".onnx")]
)
def test_an_image_classifier(create, ending, tmp_path):
    x, y = images()
    model = create_distiller(create)
    journey.check_stages(model, x, y)
    journey.check_cache(model, x, y, tmp_path)
    journey.check_saving(model, x, y, tmp_path)
    journey.check_export(model.student, x, tmp_path, [ending])


@pytest.mark.parametrize(
    "create, ending", [(create_deeplab, ".tflite"), (create_segformer, "")]
)
def test_a_segmenter(create, ending, tmp_path):
    """Its logits are scaled up behind the last layer with weights."""
    model = create_distiller(create)
    x, y = images(model.student.output_shape[1:3])
    journey.check_stages(model, x, y)
    journey.check_cache(model, x, y, tmp_path)
    # The one has a dropout that no argument switches off.
    has_dropout = create is create_segformer
    journey.check_saving(model, x, y, tmp_path, has_dropout=has_dropout)
    journey.check_export(model.student, x, tmp_path, [ending])


@pytest.mark.parametrize(
    "create, ending", [(create_bert, ".onnx"), (create_roberta, "")]
)
def test_a_text_classifier(create, ending, tmp_path):
    x, mask = texts(has_segments=create is create_bert)
    _, y = images()
    model = create_distiller(create)
    assert "transformer_layer" in model.hints[0].hint_layer
    journey.check_stages(model, x, y, padding=mask)
    journey.check_cache(model, x, y, tmp_path)
    journey.check_saving(model, x, y, tmp_path)
    journey.check_export(model.student, x, tmp_path, [ending])


@pytest.mark.parametrize(
    "create, ending",
    [(create_gpt2, ""), (create_llama, ".onnx"), (create_gemma, ".onnx")],
)
def test_a_causal_language_model(create, ending, tmp_path):
    """Soft targets for each token, and weights that leave out those that pad."""
    x, mask = texts()
    y = np.roll(x["token_ids"], -1, axis=1)
    model = create_distiller(create)
    assert model.output_pairs[0].activation == "softmax"
    journey.check_stages(model, x, y, mask, mask, has_head=False)
    journey.check_cache(model, x, y, tmp_path, sample_weight=mask)
    journey.check_saving(model, x, y, tmp_path, sample_weight=mask)
    journey.check_export(model.student, x, tmp_path, [ending])


@pytest.mark.parametrize("create", [create_bert, create_gpt2])
def test_what_pads_a_text_is_of_no_account(create):
    model = create_distiller(create)
    model.stage = "hint"
    logs = []
    for padding_token in (0, 7, 9):
        x, _ = texts(create is create_bert, padding_token)
        logs.append(journey.evaluate(model, tf.data.Dataset.from_tensors(x)))
    assert logs[0]["hint_loss"] > 0
    assert logs[1] == pytest.approx(logs[0], rel=1e-6)
    assert logs[2] == pytest.approx(logs[0], rel=1e-6)


@pytest.mark.parametrize("create", [create_llama, create_gemma])
def test_litert_needs_texts_of_a_fixed_length(create, tmp_path):
    student, (x, _) = create(1), texts()
    if create is create_gemma:
        with pytest.raises(ValueError, match="Fix them: with inputs = {t.name"):
            kf.export.export_student(student, tmp_path / "s.tflite", data=x)
    inputs = {
        t.name: keras.Input((STEPS,), dtype=t.dtype, name=t.name)
        for t in student.inputs
    }
    fixed = keras.Model(inputs, student(inputs))
    journey.check_export(fixed, x, tmp_path, [".tflite"])


def test_a_preprocessor_is_applied_or_refused():
    """`fit` and `predict` of a task apply it, a Distiller does not."""
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=SHAPE[:2], scale=1 / 255
    )
    preprocessor = hub.ResNetImageClassifier.preprocessor_cls(converter)
    nets = [create_resnet(size, preprocessor=preprocessor) for size in SIZES]
    with pytest.raises(ValueError, match="ResNetImageClassifierPreprocessor"):
        kf.Distiller(*nets)
    _, y = images()
    x = np.random.default_rng(0).uniform(0, 255, (len(y), *SHAPE)).astype("float32")
    student = nets[1]
    student.compile("sgd", journey.LABEL_LOSS)
    own_loss = student.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    for network in nets:
        network.preprocessor = None
    model = kf.Distiller(*nets)
    model.compile("sgd", journey.LABEL_LOSS)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(len(y)).map(preprocessor)
    loss = journey.evaluate(model, data)["label_loss"]
    assert loss == pytest.approx(own_loss, rel=1e-5)
