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
# A deep, thin student is hard to train: with small first weights, the signal vanishes
# on its way through the layers, and so does the gradient on its way back. A *hint*
# helps in the middle: in stage 1 the lower half of the student learns to predict a
# hidden layer of the teacher. This notebook shows the prediction before and after
# stage 1, the effect of the weight λ in stage 2, and the teacher's confidence.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_fitnets as kf

# %% tags=["parameters"]
TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 20, 15, 30

# %% [markdown]
# ## A wide teacher, a deep thin student
#
# The data are the handwritten digits of scikit-learn, 8×8 pixels. The teacher has two
# wide convolutions. The student has six narrow ones, and small first weights, as in
# the paper.

# %%
train, validation, test = (
    next(iter(kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)))
    for split in ("train", "validation", "test")
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(widths, initializer):
    layers = [
        keras.layers.Conv2D(
            width,
            kernel_size=3,
            padding="same",
            activation="relu",
            kernel_initializer=initializer,
            name=f"conv{i}",
        )
        for i, width in enumerate(widths, 1)
    ]
    top = [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, *top])


def thin():
    return network([8] * 6, keras.initializers.RandomUniform(-0.05, 0.05))


keras.utils.set_random_seed(0)
teacher = network([32, 64], "glorot_uniform")
teacher.compile("adam", loss, metrics=["accuracy"])
teacher.fit(*train, batch_size=32, epochs=TEACHER_EPOCHS, verbose=0)
student = thin()
for name, model in {"teacher": teacher, "student": student}.items():
    print(f"{name}: {model.count_params():,} parameters")
print(f"teacher: {teacher.evaluate(*validation, verbose=0)[1]:.1%} on validation data")

# %% [markdown]
# ## Before and after stage 1
#
# The hint is the output of the teacher's first layer, with 32 maps. The guided layer is
# the student's third layer, with 8 maps. A regressor maps the guided layer's output to
# the shape of the hint, and is discarded at the end. The plot shows, for two images,
# the teacher's maps above the regressor's predictions. The predictions are still empty,
# because the signal does not get through the small first weights.

# %%
distiller = kf.Distiller(teacher, student, hints=("conv1", "conv3"), stage="hint")
kf.plots.hint_maps(distiller, validation[0], channels=6, images=2)

# %% [markdown]
# Stage `"hint"` trains only the first three layers of the student and the regressor. It
# needs no labels. (`kf.fit_stagewise` runs this stage and the next one in one call.)
# After each epoch, the monitor logs how much of the hint the student predicts.

# %%
monitor = kf.StudentMonitor(validation[0])
distiller.compile(keras.optimizers.RMSprop(3e-3))
stage_1 = distiller.fit(
    train[0], batch_size=32, epochs=HINT_EPOCHS, callbacks=[monitor], verbose=0
)
kf.plots.hint_maps(distiller, validation[0], channels=6, images=2)

# %% [markdown]
# R² over all validation images measures how much of the hint is predicted. It is 1 for
# a perfect prediction, and 0 for predicting the mean of each feature. The zeros that
# were predicted before stage 1 were worse than that.

# %% [markdown]
# ## Stage 2: λ makes a curriculum
#
# The whole student now learns from the labels and from the teacher's softened outputs,
# which have the weight λ. The plot compares the gradient of the teacher's term with
# that of the label, for a student that has not learned anything yet. Each point is an
# image, at the teacher's confidence in it:

# %%
annealing = kf.LambdaAnnealing(4.0, 1.0, epochs=KD_EPOCHS)
kf.plots.curriculum(distiller, *train, lambdas=[4.0, 2.5, 1.0])

# %% [markdown]
# The less confident the teacher is, the smaller is the gradient of its term. A large λ
# at the beginning emphasises the images of which the teacher is sure. As λ falls, the
# labels gain weight, most of all those of the hard images.

# %%
distiller.stage = "kd"
distiller.compile(keras.optimizers.RMSprop(3e-3), loss, metrics=["accuracy"])
sure = np.max(keras.ops.softmax(teacher.predict(train[0], verbose=0)), axis=-1)
groups = np.array_split(np.argsort(sure), 4)
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
    callbacks=[annealing, monitor, Watch()],
    verbose=0,
)
kf.plots.stages(kf.StagewiseHistory(stage_1, stage_2))

# %% [markdown]
# The soft targets' share of the loss stays large to the end, because their
# cross-entropy includes the entropy of the teacher's own outputs. The next plot shows
# the student's accuracy on images of which the teacher is more or less sure:

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, 4))
names = ["least sure", "less sure", "more sure", "surest"]
for name, color, marker, values in zip(
    names, colors, "os^D", np.transpose(curves), strict=True
):
    options = {"color": color, "marker": marker, "markersize": 4, "label": name}
    axis.plot(range(1, KD_EPOCHS + 1), 100 * values, markevery=3, **options)
axis.set(xlabel="epoch of stage 2", ylabel="student's accuracy, %")
axis.legend(title="Of the quarter of the images\nthat the teacher is", frameon=False)
axis.xaxis.get_major_locator().set_params(integer=True)
plt.show()

# %% [markdown]
# ## Which images the teacher is sure of

# %%
figure, axes = plt.subplots(
    2,
    8,
    figsize=(9, 2.6),
    layout="constrained",
    subplot_kw={"xticks": [], "yticks": []},
)
order = np.argsort(sure)
for row, name, places in zip(
    axes, ("least sure", "surest"), (order[:8], order[-8:]), strict=True
):
    row[0].set_ylabel(name)
    for axis, at in zip(row, places, strict=True):
        axis.imshow(train[0][at, ..., 0], cmap="gray_r")
        axis.set_title(f"{int(train[1][at])}: {sure[at]:.2f}", fontsize="small")
plt.show()

# %% [markdown]
# ## Without the hint
#
# For comparison, the same student is trained from the same kind of first weights, with
# equally many epochs of stage 2 alone:

# %%
keras.utils.set_random_seed(1)
alone = kf.Distiller(teacher, thin())
alone.compile(keras.optimizers.RMSprop(3e-3), loss, metrics=["accuracy"])
alone.fit(
    *train,
    batch_size=32,
    epochs=HINT_EPOCHS + KD_EPOCHS,
    callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=HINT_EPOCHS + KD_EPOCHS)],
    verbose=0,
)
for name, model in {"with the hint": distiller, "without": alone}.items():
    logits = model.predict(validation[0], verbose=0)
    right = np.mean(logits.argmax(-1) == validation[1].numpy())
    print(f"{name}: {right:.1%} on validation data")
