"""Losses and scores of a run as TensorBoard's curves."""

from compressc_tensorboard.observer import TensorBoard

__all__ = ["TensorBoard"]
