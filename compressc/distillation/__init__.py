"""Learning from a teacher: what any pass needs that trains a graph to answer as another does."""

from compressc.distillation.attention import (
    Attention,
    AttentionPair,
    attention_by_depth,
    pair_attention,
)
from compressc.distillation.by_output import BY_OUTPUT, objective_of
from compressc.distillation.condensation import (
    Condensation,
    drawn_of_each,
    parse_condensation,
)
from compressc.distillation.features import (
    FeatureObjective,
    Form,
    Point,
    channel_dim,
    point_of,
    weights_of,
)
from compressc.distillation.heads import find_heads
from compressc.distillation.holdout import hold_out, parts_of
from compressc.distillation.largest import Largest, Shortened
from compressc.distillation.lesson import Teaching, suits, trial_of_statistics
from compressc.distillation.loss import OTHERS, Loss
from compressc.distillation.objective import (
    Objective,
    Unreduced,
    parse_loss,
    parse_objective,
    reduce,
    widened,
)
from compressc.distillation.points import (
    Pair,
    block_ends,
    choose_points,
    find_pairs,
    pairs_by_depth,
)
from compressc.distillation.recovery import (
    Progress,
    Recovered,
    loss_of_answers,
    recover,
    teachings,
)
from compressc.distillation.seen import (
    INNER,
    ByLabels,
    Reading,
    Readings,
    Seen,
    Spans,
    look,
    mapped,
)
from compressc.distillation.several import Rule, Several, mean
from compressc.distillation.synthesis import Making, Synthesis, parse_synthesis
from compressc.distillation.teacher import (
    Answering,
    Answers,
    GivenAnswers,
    How,
    Keeping,
    Reader,
    Teacher,
    given_basis,
    open_given,
    reader_of,
)
from compressc.distillation.vectors import one_each, vector_in

__all__ = [
    "BY_OUTPUT",
    "INNER",
    "OTHERS",
    "Answering",
    "Answers",
    "Attention",
    "AttentionPair",
    "ByLabels",
    "Condensation",
    "FeatureObjective",
    "Form",
    "GivenAnswers",
    "How",
    "Keeping",
    "Largest",
    "Loss",
    "Making",
    "Objective",
    "Pair",
    "Point",
    "Progress",
    "Reader",
    "Reading",
    "Readings",
    "Recovered",
    "Rule",
    "Seen",
    "Several",
    "Shortened",
    "Spans",
    "Synthesis",
    "Teacher",
    "Teaching",
    "Unreduced",
    "attention_by_depth",
    "block_ends",
    "channel_dim",
    "choose_points",
    "drawn_of_each",
    "find_heads",
    "find_pairs",
    "given_basis",
    "hold_out",
    "look",
    "loss_of_answers",
    "mapped",
    "mean",
    "objective_of",
    "one_each",
    "open_given",
    "pair_attention",
    "pairs_by_depth",
    "parse_condensation",
    "parse_loss",
    "parse_objective",
    "parse_synthesis",
    "parts_of",
    "point_of",
    "reader_of",
    "recover",
    "reduce",
    "suits",
    "teachings",
    "trial_of_statistics",
    "vector_in",
    "weights_of",
    "widened",
]
