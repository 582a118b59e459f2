"""Sounds as grey pictures: how loud each frequency is at each time."""

import math

import numpy as np
from jaxtyping import Int16, UInt8

_RANGE = 80.0
"""Decibels from black to white; white is a sine of full amplitude."""


def spectrograms(
    x: Int16[np.ndarray, "n length channels"], *, window: int = 128, width: int = 128
) -> UInt8[np.ndarray, "n height width 1"]:
    """Short-time Fourier transforms behind a Hann window, in decibels.

    Args:
      x: sounds; those shorter than a window are filled up with silence.
      window: samples a window, even.
      width: columns at most, each a window; they lie evenly from the first sample to the last.

    Returns:
      Pictures with the lowest frequency at the bottom and the highest, half the rate, at the top;
      the channels of a stereo sound below one another. A level of grey is the same loudness in all.
    """
    count, length, channels = x.shape
    samples = np.zeros((count, max(length, window), channels), np.float32)
    samples[:, :length] = x / np.float32(32768.0)
    last = samples.shape[1] - window
    starts = np.rint(np.linspace(0, last, min(width, last + 1))).astype(int)
    hann = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(window) / window)
    frames = samples[:, starts[:, None] + np.arange(window)] * hann[:, None]
    # A sine of amplitude one has half of the window's sum in its bin.
    amplitude = np.abs(np.fft.rfft(frames, axis=2))[:, :, 1:] / (0.5 * hann.sum())
    decibels = 20 * np.log10(np.maximum(amplitude, 1e-10))
    grey = np.rint(255 * np.clip(1 + decibels / _RANGE, 0, 1)).astype(np.uint8)
    upright = grey.transpose(0, 3, 2, 1)[:, :, ::-1]  # (n, channels, frequency, time)
    return upright.reshape(count, channels * (window // 2), len(starts), 1)
