"""Triton kernels for GPUs. Imported by `dispatch` alone, and only when a tensor is on one."""
