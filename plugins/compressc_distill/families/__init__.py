"""Families of distillation: what they share is the engine, and none of them knows another."""
