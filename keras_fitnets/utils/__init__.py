"""Small helpers that every other package may use, and that know none of them.

- `checks`: one check each for numbers, integers, choices and callbacks.
- `tensors`: masks and precision of tensors.
- `errors`: errors of other libraries, and optional packages that are missing.
- `figures`: how a Matplotlib figure is made, styled and saved.
- `keras_private`: everything private of Keras that the package relies on.

Nothing here knows of teachers or students. Arguments and tensors come in, and come
back checked or converted; nothing is kept.
"""
