"""The `student` pass: fewer blocks, thinner layers, lower ranks, or a model of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressc.analysis import beside, find_chains
from compressc.analysis.coverage import Verdict
from compressc.depth import Depth, Pick, dropped, merged, tensors_of
from compressc.distillation import parse_loss
from compressc.errors import CompresscError
from compressc.fingerprint import Fingerprint
from compressc.ir import Graph
from compressc.pipeline import Context, Pass, load_pass
from compressc.spec import Configured
from compressc_student.factory import adopt
from compressc_student.proxy import LOSS
from compressc_student.search import Makers, search

#: Share of the blocks that stays where nothing else is asked for.
HALF = 0.5
#: What else there is where no block can go.
INSTEAD = "student(width=0.5), or student(factory=file.py:function) for a model of your own"
Share = Annotated[float, Field(gt=0, le=1)]


class Student(Pass):
    """Make a smaller student out of the teacher, for `distill` to train.

    `depth` drops repeated blocks one behind the other (the layers of a transformer, the units of a
    stage) and starts from the weights of those that stay; the end of a block in front of a gap
    stands for the end of the gap, so that features still pair. `width` and `rank` do what `prune`
    and `lowrank` do; `params` and `macs` choose depth and width by short trainings. `factory` takes
    a model of your own. Sources: Sanh et al. 2019 (DistilBERT), Men et al. 2024 (ShortGPT: which
    layers change little).

    Legal where blocks repeat one behind the other. Cost: accuracy, until `distill` recovers it.
    """

    name: ClassVar[str] = "student"
    effect: ClassVar[Literal["exact", "lossy"]] = "lossy"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[Mapping[str, str]] = {
        "prune": "blocks that are cut each in their own way no longer repeat",
        "lowrank": "factors hide the channels that a smaller width is chosen by",
        "distill": "distillation trains the student",
        "quant": "a student starts from float weights",
    }

    depth: Share | None = None
    """Share of the blocks of each chain that stays; 0.5 where no option says what to do."""
    keep: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Which blocks stay, counted from 0: `keep=0,2,5`; in place of `depth`."""
    pick: Pick = "spread"
    """Which blocks `depth` keeps: in even steps from the first on (`spread`: every other one of
    0.5), the `first`, the `last`, or on calibration data all but those whose output is most like
    their input (`similar`), or without which the answers change least (`costs`)."""
    blocks: str = ""
    """Only repeated blocks with this in their name: `decoder` of a model that has an encoder, too.
    """
    width: Share | None = None
    """Share of each width that stays: `prune(ratio=1-width)`."""
    rank: Share | None = None
    """Share of each layer's weights that its two factors have: `lowrank(rank=...)`."""
    params: Share | None = None
    """Share of the teacher's parameters that the student may have: depth and width are chosen by
    short trainings, and what was tried is told."""
    macs: Share | None = None
    """The same for multiply-accumulates; both limits hold where both are given."""
    steps: Annotated[int, Field(ge=1, le=2000)] = 200
    """Of each of these trainings, four at most."""
    factory: str = ""
    """A model of your own in place of the teacher's parts: `pkg.mod:function` or
    `file.py:function`, a function without arguments that returns an nn.Module. It takes and gives
    what the teacher does, and starts from the weights that the function gives it."""

    @field_validator("keep", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """One number is a list of one."""
        return (given,) if isinstance(given, int) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Options that contradict each other are an error before any work starts."""
        given = self.model_fields_set
        shape = {"depth", "keep", "width", "rank"}
        rivals = {
            "keep": {"depth", "pick"},
            "params": shape,
            "macs": shape,
            "factory": shape | {"pick", "blocks", "params", "macs"},
        }
        for name, others in rivals.items():
            if getattr(self, name) and given & others:
                raise ValueError(f"{name} and {', '.join(sorted(given & others))}: not both")
        if self.keep == ():
            raise ValueError("keep: a student has a block at least")
        return self

    @property
    def requirements(self) -> frozenset[str]:
        """Data show how much a block changes, and which student does best."""
        looks = self.pick in ("similar", "costs") or bool(self._limits)
        return frozenset({"data"}) if looks else self.needs

    def uses(self) -> tuple[Any, ...]:
        """The passes that make layers thinner, and what students are compared by."""
        used: list[type[Configured]] = [type(pass_) for pass_ in self._thinning()]
        if self._limits:
            used += [load_pass("prune"), *(type(term.of) for term in parse_loss(LOSS))]
        return tuple(used)

    def code(self) -> Fingerprint:
        """Of a factory only the user knows what it depends on."""
        found = super().code()
        return replace(found, unknown="a factory's code is not ours") if self.factory else found

    def run(self, graph: Graph, ctx: Context) -> None:
        """Drop blocks, then cut widths, then factorize; or adopt the user's model.

        Raises:
            CompresscError: CC105 where nothing repeats, or cannot go, CC102 for a block that is not
                there, CC207 where a factory's model is of another form than the teacher.
        """
        if self.factory:
            adopt(graph, self.factory, ctx)
            ctx.note(graph.name, f"built by {self.factory}: no value of it stands for a teacher's")
        elif self._limits:
            lengths = (len(chain) for chain in find_chains(graph) if self.blocks in chain.name)
            blocks = max(lengths, default=1)
            best = search(
                graph, ctx, self._limits, blocks, self.steps, Makers(self._shrink, self._sketch)
            )
            self._shrink(graph, ctx, best.depth, best.width)
        else:
            self._make(graph, ctx)
        cost = beside(graph, ctx.teacher, ctx.example())
        ctx.note(graph.name, str(cost))
        ctx.record("student", {"parameters": cost.parameters, "macs": cost.macs, "at": cost.sizes})

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By the blocks that would go, and by what the other passes say of those that stay."""
        if self.factory:
            return {
                op.name: Verdict.idle("an input of the model")
                if op.kind == "input"
                else Verdict.does("gives way to the factory's model", *tensors_of(op))
                for op in graph
            }
        if self._limits:
            text = "does not say: depth and width are chosen by trainings"
            return {op.name: Verdict.unknown(text) for op in graph}
        left = graph.copy()
        try:
            self._drop(left, ctx)
        except CompresscError as error:  # `run` would end with it
            reason = Verdict.cannot(f"{error.wanted} (got {error.got})")
            return {op.name: reason for op in graph}
        found = [dropped(graph, left)]
        for pass_ in self._thinning():
            found.append(dict(pass_.coverage(left, ctx)))
            pass_.run(left, ctx)
        return merged(graph, found)

    def _make(self, graph: Graph, ctx: Context, **options: bool) -> None:
        self._drop(graph, ctx)
        for pass_ in self._thinning(**options):
            pass_.run(graph, ctx)

    @property
    def _limits(self) -> dict[str, float]:
        """Shares of the teacher's cost that the student may have."""
        given = {"parameters": self.params, "macs": self.macs}
        return {name: share for name, share in given.items() if share is not None}

    def _shrink(
        self, graph: Graph, ctx: Context, depth: float, width: float, **options: bool
    ) -> None:
        """Make the student of that depth and width, as `student(depth=..., width=...)` does."""
        given = {"pick": self.pick, "blocks": self.blocks, "width": width}
        if depth < 1:
            given["depth"] = depth
        Student.model_validate(given)._make(graph, ctx, **options)

    def _sketch(self, graph: Graph, ctx: Context, depth: float, width: float) -> None:
        """The same for its cost alone: weights are merely cut."""
        self._shrink(graph, ctx, depth, width, refit=False, statistics=False)

    # ---- depth ---------------------------------------------------------------------------------

    def _drop(self, graph: Graph, ctx: Context) -> None:
        """Take out the blocks that do not stay, where there is a choice of blocks."""
        share = self.depth
        if share is None and not (self.keep or self.width or self.rank):
            share = HALF
        if share is not None or self.keep is not None:
            Depth(share, self.keep, self.pick, self.blocks, self.name, INSTEAD).cut(graph, ctx)

    # ---- width and rank ------------------------------------------------------------------------

    def _thinning(self, **options: bool) -> list[Pass]:
        """The passes that make layers thinner: those that are installed under these names.

        Args:
            options: of the pruning, beside its ratio.
        """
        found = []
        if self.width is not None and self.width < 1:
            found.append(load_pass("prune").model_validate({"ratio": 1 - self.width, **options}))
        if self.rank is not None and self.rank < 1:
            found.append(load_pass("lowrank").model_validate({"rank": self.rank, "limit": 1.0}))
        return found
