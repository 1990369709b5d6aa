"""The options of `prune`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressc.distillation import BY_OUTPUT, parse_objective
from compressc.importance import Importance, parse_importance
from compressc.measure.table import read_table
from compressc.pipeline import Pass
from compressc_prune.allocation import Rounding
from compressc_prune.planning import Way, Wish
from compressc_prune.protected import Patterns
from compressc_prune.targets import COSTS, Target

#: A share of a cost that is to be left.
Share = Annotated[float, Field(gt=0, lt=1)]


class PruneOptions(Pass):
    """What a user says of a pruning; `Prune` does it."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each width to remove; weights fall by about the square of what is left."""
    macs: Share | None = None
    """In place of `ratio`: share of the multiply-accumulates of one sample that is to be left. Met
    within 3 %, or as near as widths allow, with a note."""
    params: Share | None = None
    """The same of the parameters."""
    bytes: Share | None = None
    """The same of the bytes of all tensors."""
    latency: Share | None = None
    """The same of the time in ONNX Runtime: predicted by a table of the latencies of the layers,
    which is measured once on this machine, and checked by measuring the whole. Widths are chosen
    by a knapsack over importance lost and time saved, or by one ratio where, with data, that leaves
    more of the answers; unless `allocation` says otherwise."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Of `latency`: the batch size at which time counts; the first of the target's if not given."""
    table: str | None = None
    """Of `latency`: the `table.json` of another device, see `compressc probe`."""
    steps: Annotated[int, Field(ge=1, le=64)] = 1
    """Cut in so many steps, each of which takes the same share of what is left; between them the
    model learns from the teacher for `epochs_between`, and what is cut next is chosen anew. Needs
    data; behind the last cut comes `distill`."""
    epochs_between: Annotated[int, Field(ge=1)] = 2
    """Of `steps`: epochs of training behind each cut but the last."""
    depth: Share | None = None
    """Share of the repeated blocks that is left; the others go whole, before widths are cut. Widths
    are cut only where `ratio`, `macs` or another of them is given, too."""
    blocks_by: Literal["auto", "costs", "similar", "spread"] = "auto"
    """Of `depth`: which blocks stay. Those without which the answers change most (`costs`), or
    whose output is least like their input (`similar`), both on calibration data, or every other one
    and the like (`spread`). `auto` is `costs` where there are data."""
    experts: Share | None = None
    """Share of the experts of each router that is left, those that most is routed to on calibration
    data; as `depth`, before widths are cut, and without them where no amount is given."""
    importance: str = "magnitude"
    """Score of an index: `magnitude` (squared weights), `taylor` (weight times gradient on
    calibration data) or any other of `compressc importances`, options in brackets."""
    allocation: Literal["uniform", "global", "sensitivity", "knapsack"] = "uniform"
    """How much of each width goes: the same share of all (`uniform`); the indices of all widths are
    ranked together (`global`); by what cutting each width alone costs on calibration data
    (`sensitivity`); or by the importance lost for the time saved (`knapsack`, with `latency`)."""
    uniform: bool = False
    """Corresponding widths of repeated blocks get one size, so that a Hugging Face configuration
    can say it: one number of heads, one head width, one MLP width."""
    keep: Patterns = ()
    """Layers that nothing is cut of, by patterns of names: `keep="head.*"`, several with commas."""
    round_to: Annotated[int, Field(ge=1, le=512)] = 8
    """Keep a multiple of this many channels (never of heads): odd widths run slower. With `latency`
    the step that the table shows, where this is not given."""
    global_ranking: Annotated[bool, Field(alias="global")] = False
    """Short for `allocation=global`."""
    attention: Literal["heads", "head_width", "both", "keep"] = "heads"
    """What to cut of attention: whole heads, the width of every head, both, or nothing (`keep`)."""
    normalized: bool = False
    """Also cut widths that a layer norm or a mean runs over. Such a cut is not the same as zeroing,
    and costs more accuracy before distillation."""
    refit: Literal["auto"] | bool = "auto"
    """Fit what reads a cut width anew, in closed form, so that it gives on calibration data what it
    gave before. `true`: as well as it can, for a model that is not trained afterwards; `auto`:
    where there are data, and gently, which is the better start for a training."""
    statistics: bool = True
    """Take the mean and variance of batch norms anew from calibration data, where there are any."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        """Options that contradict each other are an error before any work starts."""
        given = [name for name in ("ratio", *COSTS, "latency") if name in self.model_fields_set]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them")
        if self.global_ranking and self.allocation == "sensitivity":
            raise ValueError("global and allocation=sensitivity: give one of them")
        of_latency = {
            "batch": self.batch is not None,
            "table": self.table is not None,
            "allocation=knapsack": self.allocation == "knapsack",
        }
        if self.table is not None and self.steps > 1:
            raise ValueError("table and steps: it has no times of the layers between the steps")
        if self.depth is None and "blocks_by" in self.model_fields_set:
            raise ValueError("blocks_by is for depth=0.5 and the like")
        if not self.cuts_widths and self.steps > 1:
            raise ValueError("steps are of widths: give ratio, macs or the like besides")
        if self.steps == 1 and "epochs_between" in self.model_fields_set:
            raise ValueError("epochs_between is for steps=2 and more")
        for name in (name for name, is_given in of_latency.items() if is_given):
            if self.latency is None:
                raise ValueError(f"{name} is for latency=0.5 and the like")
        return self

    @property
    def cuts_widths(self) -> bool:
        """Whether widths are cut: not where depth or experts are all that is asked for."""
        amounts = {"ratio", *COSTS, "latency"}
        return not self.cuts_parts or bool(amounts & self.model_fields_set)

    @property
    def cuts_parts(self) -> bool:
        """Whether blocks or experts go."""
        return self.depth is not None or self.experts is not None

    @property
    def requirements(self) -> frozenset[str]:
        """What an importance reads beside the weights is measured on data; so are losses, what
        layers are refitted to, and what is learned between steps."""
        refits = self.refit is True
        looks = self._importance.reads or refits or self.allocation == "sensitivity"
        looks = looks or self.steps > 1 or self.blocks_by in ("costs", "similar")
        return frozenset({"data"}) if looks else self.needs

    @field_validator("importance")
    @classmethod
    def _known(cls, text: str) -> str:
        """A misspelt importance is an error before any work starts."""
        parse_importance(text)
        return text

    @field_validator("table")
    @classmethod
    def _readable(cls, path: str | None) -> str | None:
        """A table that cannot be read is an error before any work starts."""
        if path is not None:
            read_table(path)
        return path

    @property
    def target_parts(self) -> frozenset[str]:
        """Only what is measured depends on where the result will run."""
        return frozenset() if self.latency is None else self.reads_target

    def cache_key(self) -> dict[str, Any]:
        """With what is in the table: another one of that name gives another result."""
        key = super().cache_key()
        if self.latency is not None:  # what was left open is chosen otherwise than its default
            key["chosen"] = [self._way, "round_to" in self.model_fields_set]
        if self.table is not None:
            key["table"] = hashlib.sha256(Path(self.table).read_bytes()).hexdigest()
        return key

    @property
    def _importance(self) -> Importance:
        return parse_importance(self.importance)

    def uses(self) -> tuple[Any, ...]:
        """The importance, and objectives: others of the same name make another result."""
        learned = [type(parse_objective(name)) for name in BY_OUTPUT.values()]
        return (type(self._importance), *(learned if self.steps > 1 else ()))

    @property
    def _wish(self) -> Wish:
        """How much of which widths is to go."""
        shares = {name: getattr(self, name) for name in (*COSTS, "latency")}
        given = [Target(name, share) for name, share in shares.items() if share is not None]
        return Wish(
            ratio=self.ratio,
            target=given[0] if given else None,
            allocation=self._way,
            uniform=self.uniform,
            rounding=Rounding(self.round_to),
            rounded="round_to" in self.model_fields_set,
            batch=self.batch,
            table=self.table,
            comparable=self._importance.comparable,
            compared=self._way == "knapsack" and "allocation" not in self.model_fields_set,
        )

    @property
    def _way(self) -> Way:
        if self.global_ranking:
            return "global"
        chosen = "allocation" in self.model_fields_set
        return "knapsack" if self.latency is not None and not chosen else self.allocation
