"""Run a Keras network or an exported file alike: arrays in, arrays out.

`report` and `export` compare models that live in different runtimes. This package hides
the difference. Data flow through it in three steps:

1. `arrays` turns what a user calls data (`x`, `(x, y)` or a `tf.data.Dataset`) into
   NumPy arrays, and matches them with the inputs that a model names.
2. `runner.load_runner` chooses the runtime: `keras_model`, `saved_model`, `litert` or
   `onnx`. Each gives a `base.Runner`, whose `predict` maps inputs to outputs.
3. `predictions` reads outputs as classes with a confidence, and scores them.

Nothing here is public: users meet it through `report.compare` and `export_student`.
"""
