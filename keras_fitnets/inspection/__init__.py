"""What is in a Keras network: its layers, their outputs, and what they compute.

A network comes in and facts about it go out; no weight changes, and nothing here knows
of teachers, students or losses.

- `graph`: inputs, outputs and layers by path, whatever kind of network it is.
- `activations`: which non-linearity a layer or an output ends in.
- `feature_extractors`: forward passes that also return the outputs of hidden layers.
- `multiplications`: how much a network computes, for the tables of a report.

`distillation` builds on the first three; `report`, `export` and `cache` on the rest.
"""
