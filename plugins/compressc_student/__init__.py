"""Student synthesis: a smaller model made of the teacher's own parts, or the user's own one."""

from compressc_student.student import Student

__all__ = ["Student"]
