"""Several teachers, and whom to believe where: `teachers=`, `combine=`, `trust=` of `distill`."""
