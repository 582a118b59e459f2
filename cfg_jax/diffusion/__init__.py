"""The mathematics of λ: jax.numpy alone, no networks, no files."""
