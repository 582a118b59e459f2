"""Labelled images as (seed, step)-determined batches: real digits, folders, the TFDS catalogue."""

from cfg_jax.data.pipeline import batches
from cfg_jax.data.sources import Dataset, open_dataset, peek

__all__ = ["Dataset", "batches", "open_dataset", "peek"]
