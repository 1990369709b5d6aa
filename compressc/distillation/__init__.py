"""Learning from a teacher: what any pass needs that trains a graph to answer as another does."""

from compressc.distillation.holdout import hold_out
from compressc.distillation.lesson import Mixture, Teaching
from compressc.distillation.objective import Mixed, Objective, in_one_pass, mixed_form
from compressc.distillation.points import Pair, choose_points, feature_loss, find_pairs
from compressc.distillation.teacher import (
    Answers,
    GivenAnswers,
    How,
    Keeping,
    Reader,
    Teacher,
    given_basis,
    learned,
    open_given,
    reader_of,
)

__all__ = [
    "Answers",
    "GivenAnswers",
    "How",
    "Keeping",
    "Mixed",
    "Mixture",
    "Objective",
    "Pair",
    "Reader",
    "Teacher",
    "Teaching",
    "choose_points",
    "feature_loss",
    "find_pairs",
    "given_basis",
    "hold_out",
    "in_one_pass",
    "learned",
    "mixed_form",
    "open_given",
    "reader_of",
]
