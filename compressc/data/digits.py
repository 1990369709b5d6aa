"""The built-in data set: 1,797 handwritten digits of 8 x 8 pixels, part of scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49 (its test part, which `sklearn.datasets.load_digits` carries).
"""

from __future__ import annotations

import torch

from compressc.data.dataset import Dataset
from compressc.data.split import Split
from compressc.data.splitting import assemble, divide

TEST = 540
SEED = 0


def digits() -> Dataset:
    """Digits as `f32[n,1,8,8]` with labels 0 to 9: train 1,257, test 540 (30 %), calibration 256.

    The split is fixed and holds each class in proportion; calibration is a part of train. Pixels
    (0 to 16) are shifted and scaled by the mean and the standard deviation of all training pixels,
    so that these have mean 0 and standard deviation 1. No file is read from the network.
    """
    from sklearn.datasets import load_digits  # here: scikit-learn takes a second to import

    raw = load_digits()
    pixels = torch.from_numpy(raw.images).to(torch.float64).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(raw.target).to(torch.int64)
    test, train = divide(labels, len(labels), TEST, SEED)
    mean, std = pixels[train].mean(), pixels[train].std(correction=0)
    x = ((pixels - mean) / std).to(torch.float32)
    return assemble(
        "digits", Split((x[train],), labels[train]), Split((x[test],), labels[test]), SEED
    )
