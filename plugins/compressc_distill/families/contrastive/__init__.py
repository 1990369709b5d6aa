"""Objectives that tell samples from one another."""
