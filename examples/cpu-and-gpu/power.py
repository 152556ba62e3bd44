"""The largest eigenvalue of a symmetric matrix by power iteration, and on which device it was asked for."""

import os

import numpy as np


def device():
    if os.environ["DEVICE"] == "cpu":
        return "the CPU"
    import pynvml  # of the layer that only the GPU environment has

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return "a GPU, and there is none here"


def largest(matrix, rounds=200):
    vector = np.ones(len(matrix))
    for _ in range(rounds):
        vector = matrix @ vector
        vector /= np.linalg.norm(vector)
    return vector @ matrix @ vector


random = np.random.default_rng(7)
square = random.normal(size=(200, 200))
print(f"on {device()}: {largest(square @ square.T):.3f}")
