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
# # From a trained Keras network to one with a fraction of its weights
#
# A network that is too big or too slow for where it must run, the *teacher*, trains a
# small one, the *student*, in two stages. First a middle layer of the student learns
# to predict a middle layer of the teacher. Then the whole student learns from the
# labels and from the teacher's softened outputs.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_fitnets as kf

# %% tags=["parameters"]
TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 20, 20, 40

# %% [markdown]
# ## The teacher
#
# Any trained `keras.Model` can be the teacher. This one learns the handwritten digits
# of scikit-learn, which need no download.

# %%
train, validation, test = (
    next(iter(kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)))
    for split in ("train", "validation", "test")
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(name, widths):
    layers = [keras.layers.Dense(width, "relu") for width in widths]
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    return keras.Sequential([*flat, *layers, keras.layers.Dense(10)], name=name)


keras.utils.set_random_seed(0)
teacher = network("teacher", [256, 256])
teacher.compile("adam", loss, metrics=["accuracy"])
history = teacher.fit(*train, epochs=TEACHER_EPOCHS, verbose=0)

# %% [markdown]
# ## The student, in two stages
#
# The student is thinner and deeper than the teacher. `hints="middle"` takes the middle
# layer of each network; a pair such as `("block2", "conv6")` names two layers. λ, the
# weight of the teacher's outputs, falls from 4 to 1.

# %%
student = network("student", [24, 24, 24, 24])
distiller = kf.Distiller(teacher, student, hints="middle", temperature=3.0)
distiller.compile("adam", loss, metrics=["accuracy"])
history = kf.fit_stagewise(
    distiller,
    *train,
    hint_epochs=HINT_EPOCHS,
    kd_epochs=KD_EPOCHS,
    validation_data=validation,
    callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=KD_EPOCHS)],
    verbose=0,
)

# %%
kf.plots.stages(history)

# %% [markdown]
# ## The result
#
# The student is an ordinary Keras model. It contains nothing of the teacher.

# %%
distiller.student.save("student.keras")
student = keras.saving.load_model("student.keras")
print(kf.report.compare({"teacher": teacher, "student": student}, test, verbose=0))
