"""What a model is for: the one place that knows which output counts, and what labels mean."""

from compressc.data.checks import NO_LABEL
from compressc.tasks.response import Kind, Response, find_responses
from compressc.tasks.scores import Metric, constant_scores, equal_answers, metrics, score
from compressc.tasks.settled import SettledTask
from compressc.tasks.settling import settle, task_of

__all__ = [
    "NO_LABEL",
    "Kind",
    "Metric",
    "Response",
    "SettledTask",
    "constant_scores",
    "equal_answers",
    "find_responses",
    "metrics",
    "score",
    "settle",
    "task_of",
]
