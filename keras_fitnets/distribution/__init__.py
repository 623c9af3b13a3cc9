"""Training on several devices, and in several processes.

- `strategy`: from a name to the `tf.distribute` strategy under which networks are made.
- `replicas`: what a train step needs when its batch is divided: every replica scales
  its means by its share of the batch, so that their sum is what one device would have.
  Section "How an empty replica is handled" there says what happens without samples.
- `multi_worker`: what differs when the replicas are in several processes.

The Distiller's step calls `replicas` at each place where a mean, a gradient or a
variable update leaves the replica; on one device these calls return what they got.
"""
