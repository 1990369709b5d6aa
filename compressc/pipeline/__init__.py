"""Running passes: what a pass is, how a list of them is read, ordered, checked, run and cached."""

from compressc.analysis.coverage import Coverage, Verdict
from compressc.ir import random_inputs, run_graph
from compressc.pipeline.cache import PassCache, default_cache_folder
from compressc.pipeline.choices import Choice, choose, lower_hull
from compressc.pipeline.covering import cover
from compressc.pipeline.exactness import EXACT_TOLERANCE, check_exact
from compressc.pipeline.offers import Offer, pick
from compressc.pipeline.options import load_pass, parse_pass, parse_passes
from compressc.pipeline.ordering import Step, check_order, plan
from compressc.pipeline.pass_ import Context, Pass
from compressc.pipeline.pipeline import PassResult, Pipeline, write_snapshots
from compressc.pipeline.samples import Batch, Request, Samples, TransferSet, View
from compressc.pipeline.seeding import seeded
from compressc.pipeline.store import Store

__all__ = [
    "EXACT_TOLERANCE",
    "Batch",
    "Choice",
    "Context",
    "Coverage",
    "Offer",
    "Pass",
    "PassCache",
    "PassResult",
    "Pipeline",
    "Request",
    "Samples",
    "Step",
    "Store",
    "TransferSet",
    "Verdict",
    "View",
    "check_exact",
    "check_order",
    "choose",
    "cover",
    "default_cache_folder",
    "load_pass",
    "lower_hull",
    "parse_pass",
    "parse_passes",
    "pick",
    "plan",
    "random_inputs",
    "run_graph",
    "seeded",
    "write_snapshots",
]
