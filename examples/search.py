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
# # Searching for λ, τ and the hint
#
# Distillation has few hyper-parameters: the weight of the teacher (λ), the softness of
# its outputs (τ), the learning rate, and the layer that gives the hint. An obvious
# search would train stage 1 and run the teacher in each trial, and would compare
# `val_loss` between trials in which λ and τ, two factors of that loss, differ.
# `FitNetHyperModel` shares stage 1 and the teacher's outputs between the trials, and
# compares the trials by a metric of the student.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner

import keras_fitnets as kf

# %% tags=["parameters"]
TEACHER_EPOCHS, HINT_EPOCHS, EPOCHS, TRIALS = 20, 10, 20, 12

# %% [markdown]
# ## A teacher
#
# The data are the handwritten digits of scikit-learn, 8×8 pixels. The teacher has
# 85,002 parameters.

# %%
train, validation, test = (
    next(iter(kf.datasets.load("digits", split=split, batch_size=2000, shuffle=False)))
    for split in ("train", "validation", "test")
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(*widths):
    hidden = [
        keras.layers.Dense(width, "relu", name=f"fc{i}")
        for i, width in enumerate(widths, 1)
    ]
    ends = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([*ends[:2], *hidden, ends[2]])


keras.utils.set_random_seed(0)
teacher = network(256, 256)
teacher.compile("adam", loss, metrics=["accuracy"])
teacher.fit(*train, epochs=TEACHER_EPOCHS, verbose=0)
print(f"teacher: {teacher.evaluate(*validation, verbose=0)[1]:.1%} on validation data")

# %% [markdown]
# ## The search space
#
# A tuple `(low, high)` is a range, a list is a choice, and a single value is fixed.
# `build_student` may declare hyper-parameters of its own, as for any KerasTuner model.
# Among the candidates for the hint, `None` means distillation without a hint.

# %%
hypermodel = kf.tuning.FitNetHyperModel(
    teacher,
    build_student=lambda hp: network(*[hp.Choice("width", [16, 24])] * 4),
    hints=[("fc1", "fc2"), ("fc1", "fc3"), None],
    lambda_=(1.0, 16.0),
    temperature=(1.0, 10.0),
    learning_rate=3e-3,
    loss=loss,
    metrics=["accuracy"],
)

# %% [markdown]
# ## The search
#
# Trials are compared by a metric of the student on validation data. On few images, many
# trials have the same accuracy, but their label losses differ. `val_loss` would raise
# an error: a trial with a small λ has a small loss, however good its student is.

# %%
tuner = keras_tuner.RandomSearch(
    hypermodel,
    objective=keras_tuner.Objective("val_label_loss", "min"),
    max_trials=TRIALS,
    seed=0,
    directory="search_notebook",
)
tuner.search(
    *train,
    validation_data=validation,
    hint_epochs=HINT_EPOCHS,
    epochs=EPOCHS,
    verbose=0,
)

# %% [markdown]
# The teacher was run once over the data, and stage 1 once for each student and hint.
# Both results are stored beside the trials. Another search can use them too, if it
# has the same `directory`:

# %%
shared = os.path.join(tuner.project_dir, "shared")
for name in sorted(os.listdir(shared)):
    print(name)
first_stages = os.listdir(os.path.join(shared, "first stages"))
print(f"{len(first_stages)} first stages for {len(tuner.oracle.trials)} trials")

# %% [markdown]
# ## The results

# %%
kf.tuning.plot(tuner)

# %%
for trial in tuner.oracle.get_best_trials(5):
    values = trial.hyperparameters.values
    print(
        f"{trial.score:.4f}  λ {values['lambda']:5.2f}  "
        f"τ {values['temperature']:4.2f}  width {values['width']}  "
        f"hint {values['hint']}"
    )

# %% [markdown]
# `get_best_models` returns the trained student itself, ready to predict, evaluate and
# save. The files of the trials do not contain the teacher. The test data are used only
# here, once.

# %%
[student] = tuner.get_best_models()
print(f"{student.count_params():,} parameters instead of {teacher.count_params():,}")
print(f"{student.evaluate(*test, verbose=0)[1]:.1%} on test data")
student.save("search_notebook/student.keras")
