"""Scores of samples: those that papers quote, and sweeps over w by small networks."""

from cfg_jax.evaluation.agreement import TrainedAgreement, clip_score, r_precision
from cfg_jax.evaluation.agreement_training import train_agreement
from cfg_jax.evaluation.archive import Archive, open_archive
from cfg_jax.evaluation.caption_match import agrees
from cfg_jax.evaluation.caption_report import write_report as write_caption_report
from cfg_jax.evaluation.classifier import TrainedClassifier, load_arrays, train_classifier
from cfg_jax.evaluation.coding import coding, features_of
from cfg_jax.evaluation.coding import write_report as write_coding_report
from cfg_jax.evaluation.comparison import Measured, compare, measure, measure_once
from cfg_jax.evaluation.detector import TrainedDetector, train_detector
from cfg_jax.evaluation.features import extract, over_devices
from cfg_jax.evaluation.frechet import Moments, frechet_distance, moments
from cfg_jax.evaluation.inception import fetch_weights, load_inception
from cfg_jax.evaluation.inception_score import inception_score
from cfg_jax.evaluation.kernel_distance import kernel_distance
from cfg_jax.evaluation.noisy_classifier import Level, by_noise_level
from cfg_jax.evaluation.noisy_classifier import write_report as write_classifier_report
from cfg_jax.evaluation.of_captions import SAMPLES as CAPTIONS
from cfg_jax.evaluation.of_captions import (
    CaptionEvaluation,
    CaptionJudge,
    Captions,
    CaptionScorer,
    caption_judge_of,
    captions_of,
    entry_of,
    evaluate_captions,
)
from cfg_jax.evaluation.of_model import Asked, Evaluation, Judge, asked, evaluate, judge_of, sampler
from cfg_jax.evaluation.precision_recall import precision_recall
from cfg_jax.evaluation.reconstruction import (
    Usage,
    bits_per_dimension,
    codebook_usage,
    psnr,
    ssim,
)
from cfg_jax.evaluation.report import write_report
from cfg_jax.evaluation.sweep import Row, Scores, score, sweep

__all__ = [
    "CAPTIONS",
    "Archive",
    "Asked",
    "CaptionEvaluation",
    "CaptionJudge",
    "CaptionScorer",
    "Captions",
    "Evaluation",
    "Judge",
    "Level",
    "Measured",
    "Moments",
    "Row",
    "Scores",
    "TrainedAgreement",
    "TrainedClassifier",
    "TrainedDetector",
    "Usage",
    "agrees",
    "asked",
    "bits_per_dimension",
    "by_noise_level",
    "caption_judge_of",
    "captions_of",
    "clip_score",
    "codebook_usage",
    "coding",
    "compare",
    "entry_of",
    "evaluate",
    "evaluate_captions",
    "extract",
    "features_of",
    "fetch_weights",
    "frechet_distance",
    "inception_score",
    "judge_of",
    "kernel_distance",
    "load_arrays",
    "load_inception",
    "measure",
    "measure_once",
    "moments",
    "open_archive",
    "over_devices",
    "precision_recall",
    "psnr",
    "r_precision",
    "sampler",
    "score",
    "ssim",
    "sweep",
    "train_agreement",
    "train_classifier",
    "train_detector",
    "write_caption_report",
    "write_classifier_report",
    "write_coding_report",
    "write_report",
]
