"""What is in a Keras network."""
