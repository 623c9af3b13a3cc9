"""From a trained Keras network to one with a fraction of its weights."""

import keras

import keras_fitnets as kf

train, validation, test = (
    next(iter(kf.datasets.load("digits", split=split, batch_size=2000)))
    for split in ("train", "validation", "test")
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(name, widths):
    layers = [keras.layers.Dense(width, "relu") for width in widths]
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    return keras.Sequential([*flat, *layers, keras.layers.Dense(10)], name=name)


teacher = network("teacher", [256, 256])
teacher.compile("adam", loss, metrics=["accuracy"])
teacher.fit(*train, epochs=20, verbose=0)

student = network("student", [24, 24, 24, 24])
distiller = kf.Distiller(teacher, student, hints="middle", temperature=3.0)
distiller.compile("adam", loss, metrics=["accuracy"])
history = kf.fit_stagewise(
    distiller,
    *train,
    hint_epochs=20,
    kd_epochs=40,
    validation_data=validation,
    callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=40)],
    verbose=0,
)
distiller.student.save("student.keras")
for model in (teacher, keras.saving.load_model("student.keras")):
    model.compile(loss=loss, metrics=["accuracy"])
    accuracy = model.evaluate(*test, verbose=0)[1]
    print(f"{model.name}: {model.count_params():,} parameters, {accuracy:.1%}")
