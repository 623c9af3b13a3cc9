"""Networks and exported files as functions from arrays to arrays."""
