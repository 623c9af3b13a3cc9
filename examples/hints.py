# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a hint does
#
# A deep thin student is hard to train: from small first weights the signal dies on its way
# up, and the gradient on its way down. A *hint* helps in the middle: in stage 1 the lower
# half of the student learns to predict a hidden layer of the teacher. This notebook looks at
# that layer before and after, at the weight λ of stage 2, and at what the teacher is sure of.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_fitnets as kf

# %% tags=["parameters"]
TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 10, 15, 20

# %% [markdown]
# ## A wide teacher, a deep thin student
#
# The handwritten digits of scikit-learn, 8×8 pixels. The teacher has two wide convolutions.
# The student has six narrow ones, and small first weights, as in the paper.

# %%
train, validation, test = (
    next(iter(kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)))
    for split in ("train", "validation", "test")
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(widths, initializer):
    layers = [
        keras.layers.Conv2D(
            width, 3, 1, "same", None, kernel_initializer=initializer,
            activation="relu", name=f"conv{i}",
        )
        for i, width in enumerate(widths, 1)
    ]  # fmt: skip
    top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, *top])


keras.utils.set_random_seed(0)
teacher = network([32, 64], "glorot_uniform")
teacher.compile("adam", loss, metrics=["accuracy"])
teacher.fit(*train, batch_size=32, epochs=TEACHER_EPOCHS, verbose=0)
student = network([8] * 6, keras.initializers.RandomUniform(-0.1, 0.1))
for model in (teacher, student):
    print(f"{model.count_params():,} parameters")
print(f"teacher: {teacher.evaluate(*validation, verbose=0)[1]:.1%} on validation data")

# %% [markdown]
# ## Before stage 1
#
# The hint is the teacher's first layer, 32 maps; the guided layer is the student's third,
# with 8. A regressor stands between them, and is thrown away at the end. Four of the maps,
# for one image: what the teacher computes, and what the student predicts of it.

# %%
distiller = kf.Distiller(teacher, student, hints=("conv1", "conv3"))
distiller.compile(keras.optimizers.RMSprop(3e-3), loss, metrics=["accuracy"])
image = validation[0][:1]
hint = keras.Model(teacher.inputs, teacher.get_layer("conv1").output)
guided = keras.Model(student.inputs, student.get_layer("conv3").output)
maps = np.argsort(-np.var(hint(image)[0], axis=(0, 1)))[:4]


def predicted():
    return np.array(distiller.regressors[0](guided(image))[0])


before = predicted()

# %% [markdown]
# ## Stage 1, and after

# %%
stage_1 = kf.fit_stagewise(
    *(distiller, *train, HINT_EPOCHS, 0),
    validation_data=validation,
    batch_size=32,
    verbose=0,
).hint.history
after = predicted()


def draw_maps():
    rows = {
        "teacher's hint": np.array(hint(image)[0]),
        "predicted, before": before,
        "predicted, after": after,
    }
    top = rows["teacher's hint"][..., maps].max()
    figure, axes = plt.subplots(
        len(rows), 5, figsize=(8, 5), layout="constrained",
        subplot_kw={"xticks": [], "yticks": []},
    )  # fmt: skip
    for row, (name, values) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, at in zip(row[1:], maps, strict=True):
            shown = axis.imshow(values[..., at], vmin=0, vmax=top, cmap="viridis")
    for row in axes[1:]:
        row[0].spines[:].set_visible(False)
    axes[0][0].imshow(image[0, ..., 0], cmap="gray")
    axes[0][0].set_title("image")
    for axis, at in zip(axes[0][1:], maps, strict=True):
        axis.set_title(f"map {at}")
    figure.colorbar(shown, ax=axes, label="activation")
    return figure


draw_maps()

# %% [markdown]
# How much of the hint is predicted, over all validation images (1 is all of it, 0 is no more
# than the mean of each map):

# %%
wanted = hint.predict(validation[0], verbose=0)
found = distiller.regressors[0](guided.predict(validation[0], verbose=0))
unexplained = np.sum((wanted - found) ** 2) / np.sum((wanted - wanted.mean((0, 1, 2))) ** 2)
print(f"R² of the hint after stage 1: {1 - unexplained:.2f}")

# %% [markdown]
# ## Stage 2: λ makes a curriculum
#
# The whole student now learns from labels and from the teacher's softened answers, which
# count λ times. A large λ early stresses what the teacher is sure of: on those images its
# answers and the labels pull together, while on the others they pull apart. As λ falls, the
# labels have the last word.

# %%
distiller.stage = "kd"
distiller.compile(keras.optimizers.RMSprop(3e-3), loss, metrics=["accuracy"])
annealing = kf.LambdaAnnealing(4.0, 1.0, epochs=KD_EPOCHS)
sure = np.max(keras.ops.softmax(teacher.predict(train[0], verbose=0)), axis=-1)
quartiles = np.argsort(sure).reshape(-1)
groups = np.array_split(quartiles, 4)
curves = []


class Watch(keras.callbacks.Callback):
    """The student's accuracy on the images the teacher is less or more sure of."""

    def on_epoch_end(self, epoch, logs=None):
        logits = student.predict(train[0], batch_size=2000, verbose=0)
        right = logits.argmax(-1) == train[1].numpy()
        curves.append([right[group].mean() for group in groups])


stage_2 = distiller.fit(
    *train,
    batch_size=32,
    epochs=KD_EPOCHS,
    validation_data=validation,
    callbacks=[annealing, Watch()],
    verbose=0,
).history


def draw_curriculum():
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    epochs = range(1, KD_EPOCHS + 1)
    left.plot(epochs, stage_2["lambda"], color="black")
    left.set(xlabel="epoch of stage 2", ylabel="λ", ylim=(0, None))
    colors = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, 4))
    names = ["least sure", "less sure", "more sure", "surest"]
    for name, color, values in zip(names, colors, np.transpose(curves), strict=True):
        right.plot(epochs, 100 * values, color=color, label=name)
    right.set(xlabel="epoch of stage 2", ylabel="student's accuracy, %")
    right.legend(title="quarter of the images,\nby the teacher's confidence", frameon=False)
    return figure


draw_curriculum()

# %% [markdown]
# ## Which images the teacher is sure of

# %%
figure, axes = plt.subplots(
    2, 8, figsize=(9, 2.6), layout="constrained", subplot_kw={"xticks": [], "yticks": []}
)
order = np.argsort(sure)
for row, name, places in zip(
    axes, ("least sure", "surest"), (order[:8], order[-8:]), strict=True
):
    row[0].set_ylabel(name)
    for axis, at in zip(row, places, strict=True):
        axis.imshow(train[0][at, ..., 0], cmap="gray_r")
        axis.set_title(f"{int(train[1][at])}: {sure[at]:.2f}", fontsize="small")
figure

# %% [markdown]
# ## Without the hint
#
# The same student from the same kind of first weights, with as many epochs of stage 2 alone:

# %%
keras.utils.set_random_seed(1)
alone = kf.Distiller(
    teacher, network([8] * 6, keras.initializers.RandomUniform(-0.1, 0.1))
)
alone.compile(keras.optimizers.RMSprop(3e-3), loss, metrics=["accuracy"])
alone.fit(
    *train, batch_size=32, epochs=HINT_EPOCHS + KD_EPOCHS, callbacks=[annealing], verbose=0
)
for name, model in {"with the hint": distiller, "without": alone}.items():
    logits = model.predict(validation[0], verbose=0)
    right = np.mean(logits.argmax(-1) == validation[1].numpy())
    print(f"{name}: {right:.1%} on validation data")
