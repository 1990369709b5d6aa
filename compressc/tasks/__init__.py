"""What a model is for: the one place that knows which output counts, and what labels mean."""

from compressc.data.checks import NO_LABEL
from compressc.tasks.answers import agreement, turned_by
from compressc.tasks.known import load_task
from compressc.tasks.metric import Metric
from compressc.tasks.response import Kind, Response, find_responses
from compressc.tasks.rows import RowTask
from compressc.tasks.scoring import Scoring, constant_scores, metrics, score
from compressc.tasks.settled import SettledTask
from compressc.tasks.settling import settle, task_of
from compressc.tasks.task import Scores, Task

__all__ = [
    "NO_LABEL",
    "Kind",
    "Metric",
    "Response",
    "RowTask",
    "Scores",
    "Scoring",
    "SettledTask",
    "Task",
    "agreement",
    "constant_scores",
    "find_responses",
    "load_task",
    "metrics",
    "score",
    "settle",
    "task_of",
    "turned_by",
]
