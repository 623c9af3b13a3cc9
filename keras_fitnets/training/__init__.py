"""Both stages, resumable."""
