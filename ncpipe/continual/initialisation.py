"""Rows of new classes in a linear classifier: random, class means, or least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ncpipe.continual.settings import ContinualSpec


class Samples(NamedTuple):
    """Features (N, d) float64 and their labels (N,) int64."""

    features: Tensor
    labels: Tensor


class Head(NamedTuple):
    """Classifier: weight (K, d) and bias (K,) or None, float64."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        return torch.nn.functional.linear(features, *self)

    def with_rows(self, rows: Head) -> Head:
        """The classifier with these rows after its own."""
        assert (self.bias is None) == (rows.bias is None)
        bias = None if self.bias is None or rows.bias is None else torch.cat([self.bias, rows.bias])
        return Head(torch.cat([self.weight, rows.weight]), bias)


def new_rows(spec: ContinualSpec, old: Head, pool: Samples, num_classes: int, random: np.random.Generator) -> Head:
    """Rows of the classes beyond those of ``old``, (K - K_old, d), by ``spec.init``; a bias where ``old`` has one.

    ``random`` draws as ``torch.nn.Linear`` does. ``pool`` holds the samples at hand, of every class.
    """
    if spec.init == "random":
        return random_rows(old, num_classes - len(old.weight), random)
    if spec.init == "class_mean":
        return class_mean_rows(old, pool, num_classes)
    every = least_squares(pool, num_classes, spec.ridge, old.bias is not None)
    first = len(old.weight)
    return Head(every.weight[first:], None if every.bias is None else every.bias[first:])


def random_rows(old: Head, count: int, random: np.random.Generator) -> Head:
    """Weights and biases uniform in [-1/sqrt(d), 1/sqrt(d)], torch's default start of a linear layer."""
    width = old.weight.shape[1]
    weight = torch.from_numpy(random.uniform(-1, 1, (count, width))) / width**0.5
    bias = torch.from_numpy(random.uniform(-1, 1, count)) / width**0.5
    return Head(weight, None if old.bias is None else bias)


def class_mean_rows(old: Head, pool: Samples, num_classes: int) -> Head:
    """w_c = a (mu_c - mu_G)/|mu_c - mu_G| with a the mean norm of the old rows; biases are the mean of the old ones.

    mu_G is the mean of all class means: collapse aligns rows with centred means, and what all means share, a large
    part behind a ReLU, would draw every image to the new classes. Softmax knows biases up to a constant, which only
    their mean follows.
    """
    every = _mean_features(pool, num_classes)
    means = every[len(old.weight) :] - every.mean(dim=0)
    norms = means.norm(dim=1, keepdim=True).clamp_min(torch.finfo(means.dtype).tiny)
    weight = means * (old.weight.norm(dim=1).mean() / norms)
    return Head(weight, None if old.bias is None else old.bias.mean().expand(len(weight)).clone())


def least_squares(pool: Samples, num_classes: int, ridge: float, with_bias: bool) -> Head:
    """Ridge regression of one-hot targets on the features, classes of equal weight, (K, d).

    W = M (G + ridge (tr G / d) I)^-1 with the class means as rows of M (K, d) and G = sum_c (1/n_c) sum_i h_i h_i^T
    over the samples i of class c: the least-squares classifier of Han, Papyan & Donoho (2022), after which Harun &
    Kanan (2025) start new rows. With a bias every h is extended by a 1, whose weight is penalised too. The rows aim
    at targets 0 and 1 whatever loss has trained the old ones; those of cross-entropy may have grown far past that.
    """
    features = pool.features
    if with_bias:
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    counts = torch.bincount(pool.labels, minlength=num_classes).double()
    gram = (features / counts[pool.labels].unsqueeze(1)).T @ features
    width = features.shape[1]
    penalty = ridge * gram.trace() / width * torch.eye(width, dtype=gram.dtype)
    means = _mean_features(Samples(features, pool.labels), num_classes)
    weight = torch.linalg.solve(gram + penalty, means.T).T
    return Head(weight[:, :-1], weight[:, -1]) if with_bias else Head(weight, None)


def _mean_features(samples: Samples, num_classes: int) -> Tensor:
    """Class means (K, d)."""
    sums = samples.features.new_zeros(num_classes, samples.features.shape[1])
    sums.index_add_(0, samples.labels, samples.features)
    return sums / torch.bincount(samples.labels, minlength=num_classes).unsqueeze(1)
