"""The teacher's outputs on disk, so that training runs the teacher only once.

In many settings the teacher's forward pass costs more than the student's whole step,
and every epoch, stage and search repeats it. `cache_teacher` runs it once for each
example. Data flow through the modules in this order:

- `teacher_cache` has the public function; it checks its arguments and puts the others
  together.
- `source` goes through the dataset, and verifies by checksums that it is the same in
  each pass.
- `teacher_pass` runs the teacher on a batch and returns its outputs as columns.
- `writer` decides whether a cache that is there belongs to this call, and writes what
  it lacks.
- `storage` keeps columns in NumPy files, and reads rows of them.

What comes out is a `CachedDataset`, of the package `distillation`, which reads rows
from the storage in the order of each epoch.
"""
