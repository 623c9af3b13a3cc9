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
# # Searching λ, τ and the hint
#
# Distillation has few hyper-parameters: how much the teacher counts (λ), how soft its
# answers are (τ), how fast to learn, and which of its layers gives the hint. The
# obvious search trains stage 1 again in each trial, runs the teacher again in each
# trial, and compares `val_loss` between trials whose loss has other factors.
# `FitNetHyperModel` does the right thing instead, in fewer lines.

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
# The handwritten digits of scikit-learn, 8×8 pixels, and a network of 85,002
# parameters.

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
# ## What is searched
#
# A range `(low, high)` is searched, a list is a choice, and a single value is not
# searched. `build_student` may declare hyper-parameters of its own, as for any
# KerasTuner model. Among the candidates for the hint, `None` stands for distillation
# alone.

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
# Trials are compared by a metric of the student on validation data. The accuracy of
# few images is the same for many trials; the label loss tells them apart. `val_loss`
# would be refused: a trial with a small λ has a small loss, whatever its student is
# worth.

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
# Both lie beside the trials, and serve the next search too if it is given the same
# `directory`:

# %%
shared = os.path.join(tuner.project_dir, "shared")
for name in sorted(os.listdir(shared)):
    print(name)
first_stages = os.listdir(os.path.join(shared, "first stages"))
print(f"{len(first_stages)} first stages for {len(tuner.oracle.trials)} trials")

# %% [markdown]
# ## What it found

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
# `get_best_models` gives back the student itself, trained and ready to predict,
# evaluate and save; the teacher is in no file of any trial. The test data are used
# once, now.

# %%
[student] = tuner.get_best_models()
print(f"{student.count_params():,} parameters instead of {teacher.count_params():,}")
print(f"{student.evaluate(*test, verbose=0)[1]:.1%} on test data")
student.save("search_notebook/student.keras")
