"""Running passes: what a pass is, how a list of them is read, ordered, checked, run and cached."""

from compressc.pipeline.pass_ import Context, Pass, Progress, Samples, TransferSet

__all__ = ["Context", "Pass", "Progress", "Samples", "TransferSet"]
