"""Peers that learn together: the pass `mutual`."""
