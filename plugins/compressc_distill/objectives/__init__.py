"""Distillation losses by name, one in a file; see `compressc.distillation.Objective`."""
