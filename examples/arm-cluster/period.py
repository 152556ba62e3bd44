"""The strongest period of a noisy series, found with a Fourier transform."""

import platform

import numpy as np

random = np.random.default_rng(7)
years = np.arange(300)
series = np.sin(2 * np.pi * years / 11) + random.normal(scale=0.5, size=len(years))
power = np.abs(np.fft.rfft(series))[1:]
period = len(years) / (np.argmax(power) + 1)
print(f"{platform.machine()}: a period of {period:.1f} years")
