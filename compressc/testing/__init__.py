"""The kits for authors: hold a pass, objective, importance or task against what a run asks."""

from compressc.testing.agreement import check_coverage
from compressc.testing.checking import Checked, check_pass, export_graph
from compressc.testing.choices import check_choices
from compressc.testing.importances import check_importance
from compressc.testing.objectives import check_objective, draw_readings
from compressc.testing.resuming import Killed, check_resumes, kill_at
from compressc.testing.tasks import CheckedTask, check_task

__all__ = [
    "Checked",
    "CheckedTask",
    "Killed",
    "check_choices",
    "check_coverage",
    "check_importance",
    "check_objective",
    "check_pass",
    "check_resumes",
    "check_task",
    "draw_readings",
    "export_graph",
    "kill_at",
]
