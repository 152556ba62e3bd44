"""Learn XOR with one hidden layer, in plain NumPy.

Reads /dataset/xor.csv (columns x1, x2, y); writes /final_log/loss.png and /final_log/weights.npz.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

DATASET = Path("/dataset/xor.csv")
RESULTS = Path("/final_log")
SEED = 7
HIDDEN = 8
EPOCHS = 4000
RATE = 0.5


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def train(x, y):
    """Full-batch gradient descent on the cross-entropy.

    x has shape (samples, 2), y has shape (samples, 1). Returns the weights, and the loss of each epoch in nats.
    """
    rng = np.random.default_rng(SEED)
    weights = {
        "w1": rng.normal(0.0, 1.0, (x.shape[1], HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0.0, 1.0, (HIDDEN, 1)),
        "b2": np.zeros(1),
    }
    losses = np.empty(EPOCHS)
    for epoch in range(EPOCHS):
        hidden = np.tanh(x @ weights["w1"] + weights["b1"])
        guess = sigmoid(hidden @ weights["w2"] + weights["b2"])
        losses[epoch] = -np.mean(y * np.log(guess) + (1 - y) * np.log(1 - guess))

        slope = (guess - y) / len(x)  # of the loss, before the last sigmoid
        slope_hidden = (slope @ weights["w2"].T) * (1 - hidden**2)
        weights["w2"] -= RATE * hidden.T @ slope
        weights["b2"] -= RATE * slope.sum(axis=0)
        weights["w1"] -= RATE * x.T @ slope_hidden
        weights["b1"] -= RATE * slope_hidden.sum(axis=0)
    return weights, losses


def predict(x, weights):
    hidden = np.tanh(x @ weights["w1"] + weights["b1"])
    return sigmoid(hidden @ weights["w2"] + weights["b2"])


def plot(losses, path):
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogy(losses)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy (nats)")
    axes.set_title("Learning XOR")
    figure.savefig(path, dpi=120)


def main():
    table = np.loadtxt(DATASET, delimiter=",", skiprows=1)
    x, y = table[:, :2], table[:, 2:]
    weights, losses = train(x, y)
    plot(losses, RESULTS / "loss.png")
    np.savez(RESULTS / "weights.npz", **weights)

    print(f"loss: {losses[0]:.4f} at first, {losses[-1]:.4f} after {EPOCHS} epochs")
    guesses = predict(x, weights)
    for (a, b), guess in zip(x, guesses[:, 0], strict=True):
        print(f"  {a:.0f} xor {b:.0f} -> {guess:.3f}")
    print(f"wrote {RESULTS / 'loss.png'} and {RESULTS / 'weights.npz'}")
    return 0 if np.array_equal(guesses.round(), y) else 1


if __name__ == "__main__":
    sys.exit(main())
