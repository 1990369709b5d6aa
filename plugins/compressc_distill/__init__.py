"""Knowledge distillation: the student learns what the teacher answers."""

from compressc_distill.distill import Distill

__all__ = ["Distill"]
