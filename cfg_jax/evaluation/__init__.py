"""Scores of class-conditional samples in a small classifier's features, and the sweep over w."""

from cfg_jax.evaluation.classifier import TrainedClassifier, load_arrays, train_classifier
from cfg_jax.evaluation.frechet import Moments, frechet_distance, moments
from cfg_jax.evaluation.inception_score import inception_score
from cfg_jax.evaluation.report import write_report
from cfg_jax.evaluation.sweep import Row, Scores, score, sweep

__all__ = [
    "Moments",
    "Row",
    "Scores",
    "TrainedClassifier",
    "frechet_distance",
    "inception_score",
    "load_arrays",
    "moments",
    "score",
    "sweep",
    "train_classifier",
    "write_report",
]
