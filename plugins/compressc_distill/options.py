"""The options of `distill`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressc.distillation import How, parse_loss, parse_objective
from compressc.pipeline import Pass
from compressc.spec import make
from compressc.training import parse_budget
from compressc_distill.composing import PARTS, Composition
from compressc_distill.effort import Effort
from compressc_distill.families import views
from compressc_distill.families.language import alphabets
from compressc_distill.families.teachers.combining import Combine
from compressc_distill.families.teachers.members import digests, names_in
from compressc_distill.families.teachers.trust import Trust


class DistillOptions(Pass):
    """What a user says of a distillation; `Distill` does it."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """How often to go through the training data; `auto` is 20, and more where that would be fewer
    than some 400 steps of 16 samples."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of the optimizer, in place of whole epochs."""
    budget: str = ""
    """How long to train, in place of epochs: `90s`, `10min`, `1.5h`. The pace is measured, so the
    same seed does not give the same bytes."""
    lr: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Peak learning rate; it warms up, then falls by a cosine. `auto` is 0.01 of a typical
    weight. It is halved where the loss rises."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Samples in a batch; `auto` is 64, and down to 16 where that gives fewer than 400 steps."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches in a step: for steps of more samples than fit into memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9, which needs a rate: `lr=0.01`."""
    dot: Annotated[float, Field(ge=0, lt=0.1)] = 0.0
    """With `optimizer=sgd`: the momentum, 0.9, is smaller by this for what labels teach and larger
    for what the teacher does (Zhao et al. 2023, arXiv 2307.08436), 0.075 say; 0 for one."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share that stays of a moving average of the weights in a step, 0.999 say; the average is what
    is judged and kept. 0 for none."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Weight of the labels against the teacher's answers; 0 without labels."""
    temperature: Annotated[float, Field(gt=0, le=1000)] | Literal["auto"] = "auto"
    """T of the distillation loss: a higher one makes more of the unlikely classes. `auto` is 4, and
    1 from 500 classes on and for the next words of a text."""
    objective: str = "auto"
    """The distillation loss of the judged output: `kd`, `dkd(beta=2)` or any other of `compressc
    objectives`; `auto` goes by the output."""
    features: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the feature loss; 0 for none."""
    feature_points: Annotated[int, Field(ge=1)] = 4
    """At how many ends of blocks features are matched."""
    pairs: Literal["auto", "lineage", "depth"] = "auto"
    """How inner values find the teacher's: by `lineage`, or by `depth` with learned projectors,
    for a student of another family; `auto` by whether it descends from the teacher."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay on matrices and filters."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the learning rate rises."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0 for any."""
    dropout: bool = False
    """Whether the model's dropout is at work in training. The teacher answers without it."""
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the training data that is held out to choose the best epoch, where the data bring no
    validation part."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products and convolutions in steps; `auto` is bfloat16 where the processor has
    units for it. Weights, losses and validations are float32."""
    channels_last: Literal["auto"] | bool = "auto"
    """Whether filters and images lie pixel by pixel in steps; `auto` by the device."""
    zeros: Literal["keep", "train"] = "keep"
    """Whether zeros of sparse weights (10 to 95 % of a weight, as `sparsify` makes them) stay."""
    shard: bool = False
    """With several processes: each holds a part of the student's weights, gradients and moments."""
    answers: How = "auto"
    """Where the teacher's answers are kept: in `memory`, on `disk` (in the cache, for later runs,
    too), or not at all, so that the teacher runs `beside`; `auto` by their size."""
    answers_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the answers that are kept; smaller ones are rounded."""
    answers_top: Annotated[int, Field(ge=0)] = 0
    """Of class scores so many of the largest are kept, and what all others have together, for large
    vocabularies; 0 for all. For `kd`, at its temperature."""
    answers_from: str = ""
    """Folder of answers that `compressc teacher` wrote: the teacher is not asked, and features are
    off."""
    teachers: str = ""
    """Files of models that teach in place of the run's own, with commas between them:
    `"a.pt,b.pt"`. They take and give what it does; inner values are those of the run's own. One
    that has scores of some classes alone, in this order: `some.pt@3+5+8`."""
    tokenizers: str = ""
    """Files `tokenizer.json` of the run's model and of its one teacher, where that has another
    tokenizer: `"own.json,teacher.json"`; `alm` reads what such a teacher says."""
    student_inputs: str = ""
    """Inputs of the data that the student reads in place of the teacher's, by name, with commas
    between them: another view of the same samples. The student comes by `student(factory=...)`."""
    combine: Combine = "mean"
    """What several teachers say together: the `mean` of their logits; weighted in each row by how
    sure each is (`confidence`); or weights for each teacher and class that do best by the labels
    of the held-out samples (`learned`)."""
    trust: Trust | None = None
    """In which rows the teacher's word counts less: where it is wrong by the `labels`, where it is
    unsure by the `entropy` of its answer, or where several teachers do not agree (`agreement`).
    Everywhere in full where it is not given."""
    generations: Annotated[int, Field(ge=1, le=100)] = 1
    """How many students are taught one after another, each by the one before, from the same start;
    the best on the held-out samples is kept."""
    fresh: bool = False
    """Whether generations behind the first begin with weights drawn anew."""
    on_policy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of a language model: in this share of the batches the student writes the text itself, and the
    teacher marks each word that it wrote; 0.5 say, with `objective=reverse_kl` or `jsd`."""
    on_policy_temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """At which the student draws words then, whatever `temperature` the loss is at; 0 for the
    likeliest ones."""
    on_policy_prompt: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of each text that stands then; at least its first word."""
    views: Annotated[int, Field(ge=0)] = 0
    """With augmentation: this many fixed views of each sample, whose answers can be kept; 0 for new
    ones in each epoch, which the teacher is asked about each time."""
    loss: str = "auto"
    """The whole loss as a sum of objectives, in place of `alpha`, `objective`, `temperature` and
    `features`: `ce + 2*kd(T=4) + 0.5*hint`."""
    weights: Literal["given", "auto"] = "given"
    """What weights multiply: the terms themselves, or with `auto` terms that are brought to equal
    gradients first, as they are on the first batches; they stay so for the whole run."""
    effort: Effort | None = None
    """How much time the result is worth: `quick`, `normal` or `thorough` chooses the options that
    are left open by the task, the data and how much was cut, and says why. `--effort` sets it."""
    compare_scratch: bool = False
    """Train the same student by the labels alone, too, for as long, and say whether the teacher
    made it better; of a `budget` each gets half. `--compare-scratch` sets it."""
    augment: str = ""
    """What is made of the samples that are learned from, as `--augment` has it: `shift(pixels=1)`.
    The held-out ones stay as they are."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Added to the seed of the run."""

    @field_validator("budget")
    @classmethod
    def _readable(cls, text: str) -> str:
        """A time that cannot be read is an error before any work starts."""
        if text:
            parse_budget(text)
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Options that contradict each other are an error before any work starts."""
        if self.steps and self.budget:
            raise ValueError("steps and budget: give one of them")
        if self.optimizer == "sgd" and self.lr == "auto":
            raise ValueError("optimizer=sgd needs a rate: lr=0.01")
        if self.dot and (self.optimizer != "sgd" or self.shard):
            raise ValueError("dot has two momenta of optimizer=sgd, and no shards")
        if self.student_inputs and self.generations > 1:
            raise ValueError("student_inputs and generations: give one of them")
        if self.teachers and (self.answers_from or self.answers_top):
            other = "answers_from" if self.answers_from else "answers_top"
            raise ValueError(f"teachers and {other}: give one of them")
        if self.combine != "mean" and len(names_in(self.teachers)) < 2:
            raise ValueError(f"combine={self.combine} is of several teachers: teachers='a.pt,b.pt'")
        if self.trust and self.answers_top:
            raise ValueError("trust and answers_top: give one of them")
        if self.trust == "agreement" and len(names_in(self.teachers)) < 2:
            raise ValueError("trust=agreement is of several teachers: teachers='a.pt,b.pt'")
        if self.fresh and self.generations == 1:
            raise ValueError("fresh is of generations behind the first: generations=3")
        if self.generations > 1 and (self.answers_from or self.teachers):
            other = "answers_from" if self.answers_from else "teachers"
            raise ValueError(f"generations and {other}: give one of them")
        both = sorted(self.model_fields_set & PARTS)
        if self.loss != "auto" and both:
            raise ValueError(f"loss and {both[0]}: give one of them")
        return self

    @model_validator(mode="after")
    def _consistent_for_texts(self) -> Self:
        """So are those of language models."""
        own = sorted({"on_policy_temperature", "on_policy_prompt"} & self.model_fields_set)
        if own and not self.on_policy:
            raise ValueError(f"{own[0]} is of on_policy: on_policy=0.5")
        if self.on_policy and self.answers_from:
            raise ValueError("on_policy and answers_from: words that are new have no answers yet")
        if self.tokenizers and len(names_in(self.teachers)) != 1:
            raise ValueError("tokenizers are of one teacher: teachers=a.pt")
        if self.tokenizers and self.on_policy:
            raise ValueError("tokenizers and on_policy: give one of them")
        if self.tokenizers and not any("spans" in x.reads for x in self._composition.classes):
            raise ValueError("tokenizers are read by alm: loss='0.5*ce + 0.5*alm'")
        return self

    @field_validator("tokenizers")
    @classmethod
    def _two(cls, text: str) -> str:
        """So are tokenizers that are not two."""
        alphabets.names_in(text)
        return text

    @field_validator("teachers")
    @classmethod
    def _listed(cls, text: str) -> str:
        """So is a list of files that is none."""
        names_in(text)
        return text

    @field_validator("student_inputs")
    @classmethod
    def _inputs(cls, text: str) -> str:
        """So are names that are none."""
        views.names_in(text)
        return text

    @field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        """A misspelt objective is an error before any work starts."""
        if text != "auto":
            parse_objective(text)
        return text

    @field_validator("loss")
    @classmethod
    def _sum(cls, text: str) -> str:
        """So is one in a sum."""
        if text != "auto":
            parse_loss(text)
        return text

    def uses(self) -> tuple[Any, ...]:
        """The objectives: another one of the same name makes another result."""
        return self._composition.classes

    def cache_key(self) -> dict[str, Any]:
        """With what the files of teachers hold."""
        found = digests(names_in(self.teachers))
        cut = alphabets.digests(alphabets.names_in(self.tokenizers))
        more = {"teachers": found} if found else {}
        return super().cache_key() | more | ({"tokenizers": dict(cut)} if cut else {})

    @property
    def _composition(self) -> Composition:
        return Composition(self.loss, self.alpha, self.objective, self.temperature, self.features)

    def wished(self, *, effort: str | None = None, compare_scratch: bool = False) -> Pass:
        """With what is wished for the run, where the pass itself does not say."""
        wishes = {"effort": effort} if effort and not self.effort else {}
        return self._with(wishes | ({"compare_scratch": True} if compare_scratch else {}))

    def _with(self, more: Mapping[str, object]) -> Self:
        """The same options, and these."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return make(type(self), {**given, **more})

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """What the student reads and the teacher does not."""
        return views.names_in(self.student_inputs)

    @property
    def requirements(self) -> frozenset[str]:
        """Without a teacher there are the labels alone."""
        return self.needs | ({"labels"} if self.compare_scratch else frozenset())

    @property
    def _seconds(self) -> float | None:
        """Of one training."""
        if not self.budget:
            return None
        return parse_budget(self.budget) / (2 if self.compare_scratch else 1)

    @property
    def _given_options(self) -> frozenset[str]:
        """Options that the user settled; a whole loss settles those that it stands for."""
        return frozenset(self.model_fields_set) | (PARTS if self.loss != "auto" else frozenset())
