"""Samples made of a teacher alone: `compressc synthesize`."""
