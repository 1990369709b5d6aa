"""Learning from a teacher: what any pass needs that trains a graph to answer as another does."""

from compressc.distillation.holdout import hold_out
from compressc.distillation.lesson import Mixture, Teaching
from compressc.distillation.objective import Mixed, Objective, in_one_pass, mixed_form
from compressc.distillation.points import Pair, choose_points, feature_loss, find_pairs
from compressc.distillation.teacher import Answers, How, Keeping, Reader, Teacher

__all__ = [
    "Answers",
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
    "hold_out",
    "in_one_pass",
    "mixed_form",
]
