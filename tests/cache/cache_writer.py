"""A process that makes a cache: `python cache_writer.py FOLDER [slowly]`.

Prints a digest of what the cache gives back.
"""

import hashlib
import sys
import time

import small_caches
import tensorflow as tf

from keras_fitnets.cache import storage

storage.SHARD_BYTES = 600
FOLDER, *WORDS = sys.argv[1:]
if WORDS:
    write = storage.ColumnStore.write_shard

    def slowly(*args):
        write(*args)
        time.sleep(0.2)

    storage.ColumnStore.write_shard = slowly

dataset = small_caches.cached(
    small_caches.distiller(), small_caches.batches(*small_caches.data()), FOLDER
)
digest = hashlib.sha256()
for tensor in tf.nest.flatten(small_caches.elements(dataset)):
    digest.update(tensor.tobytes())
print(digest.hexdigest())
