"""The one training engine that any pass may use."""

from compressc.training.after_cut import answers, reestimate_behind
from compressc.training.batches import (
    Batches,
    Drawn,
    SampleBatches,
    Spread,
    TensorBatches,
    batched,
    drawn,
)
from compressc.training.best import BestState, Score
from compressc.training.checkpoint import Checkpoints
from compressc.training.length import batch_size, epochs_of, parse_budget
from compressc.training.lesson import Lesson, Recipe
from compressc.training.loop import train
from compressc.training.machine import (
    channels_last_for,
    fast_precision,
    likes_channels_last,
    precision_for,
)
from compressc.training.optimizer import Group
from compressc.training.result import Epoch, Hooks, Moment, TrainingResult
from compressc.training.scaled import LEAST_VARIANCE, scaled_error, variance
from compressc.training.schedule import cosine_with_warmup
from compressc.training.sparse import share_of, zeros_of
from compressc.training.statistics import batch_norms, reestimate, reestimate_on_trial

__all__ = [
    "LEAST_VARIANCE",
    "Batches",
    "BestState",
    "Checkpoints",
    "Drawn",
    "Epoch",
    "Group",
    "Hooks",
    "Lesson",
    "Moment",
    "Recipe",
    "SampleBatches",
    "Score",
    "Spread",
    "TensorBatches",
    "TrainingResult",
    "answers",
    "batch_norms",
    "batch_size",
    "batched",
    "channels_last_for",
    "cosine_with_warmup",
    "drawn",
    "epochs_of",
    "fast_precision",
    "likes_channels_last",
    "parse_budget",
    "precision_for",
    "reestimate",
    "reestimate_behind",
    "reestimate_on_trial",
    "scaled_error",
    "share_of",
    "train",
    "variance",
    "zeros_of",
]
