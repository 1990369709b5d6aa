"""Many runs of one model, put side by side: what a user can measure again for a model of theirs."""

from compressc.study.bias import bias
from compressc.study.fidelity import fidelity
from compressc.study.order import order
from compressc.study.running import Study, open_study
from compressc.study.temperature import temperature

__all__ = ["Study", "bias", "fidelity", "open_study", "order", "temperature"]
