"""Runs of families.py beside their baselines, and the table of them."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import compressc
from compressc.report import Record
from compressc.target import Target

#: Scores that are told in percent.
SHARES = ("accuracy", "retrieval")


@dataclass(frozen=True)
class Setting:
    """A teacher, data, and what makes the student; the two baselines are of it.

    Attributes:
        model: the run's, under `--out` where it is made for it.
        data: as `--data` has it.
        says: of the data, for the table.
        student: the pass that makes it.
        epochs: of each training.
        score: what runs are held against.
        plain: the objective of the second baseline.
        more: options of each training.
        rival: that plain kd is of, where it has another teacher.
        task: as `--task` has it, where data and model do not tell.
    """

    model: str
    data: str
    says: str
    student: str
    epochs: int
    score: str = "accuracy"
    plain: str = "kd"
    more: str = ""
    rival: Setting | None = None
    task: str = ""

    def taught(self, options: str, what: str = "distill") -> str:
        """A training of the student."""
        return f"{self.student},{what}({options},epochs={self.epochs}{self.more})"

    @property
    def alone(self) -> str:
        """Without a teacher."""
        return self.taught("loss=ce")

    @property
    def kd(self) -> str:
        """By plain kd."""
        return self.taught(f"loss='0.1*ce + 0.9*{self.plain}'")


@dataclass(frozen=True)
class Row:
    """A family's way, in a setting.

    Attributes:
        family: that it is of.
        setting: that its baselines are of.
        passes: of the command.
        data: in place of the setting's; `-` for none.
    """

    family: str
    setting: Setting
    passes: str
    data: str = ""

    @property
    def name(self) -> str:
        """Of its files."""
        digest = hashlib.sha256(f"{self.passes} {self.data}".encode()).hexdigest()
        return f"{re.sub(r'[^a-z]+', '-', self.family)}-{digest[:12]}"


@dataclass(frozen=True)
class Bench:
    """Runs and their table.

    Attributes:
        out: where manifests are kept.
        seeds: how many there are.
        made: files of models that are under `out`.
    """

    out: Path
    seeds: int
    made: Collection[str]

    def path(self, setting: Setting, row: Row, seed: int) -> Path:
        """Of a manifest."""
        place = re.sub(r"[^a-z0-9]+", "-", f"{setting.model} {setting.says}".lower()).strip("-")
        return self.out / place / f"{row.name}-{seed}.json"

    def model(self, setting: Setting) -> str:
        """Its file."""
        return str(self.out / setting.model) if setting.model in self.made else setting.model

    def run(self, row: Row, seed: int) -> None:
        """One training, unless it was done."""
        file = self.path(row.setting, row, seed)
        if file.exists():
            return
        data = row.data or row.setting.data
        made = compressc.compile(
            self.model(row.setting),
            row.passes.replace("{out}", str(self.out)),
            data=None if data == "-" else self.named(data, seed),
            seed=seed,
            task=row.setting.task or None,
            cache=None,
            target=Target(backends=(), batches=()),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        report = made.report.model_copy(update={"command": self.command(row)})
        report.write(file)
        print(file.name, report.passes[-1].scores, file=sys.stderr, flush=True)

    def named(self, data: str, seed: int) -> str:
        """With the places of files."""
        return data.replace("{out}", str(self.out)).replace("{seed}", str(seed))

    def command(self, row: Row) -> str:
        """As a user gives it."""
        data = row.data or row.setting.data
        given = "" if data == "-" else f" --data {data}"
        task = f" --task {row.setting.task}" if row.setting.task else ""
        text = f'compressc {self.model(row.setting)} --passes "{row.passes}"{given}{task}'
        return self.named(text, 0)

    def baselines(self, row: Row) -> tuple[Row, Row]:
        """Without a teacher, and by plain kd."""
        setting = row.setting
        rival = setting.rival or setting
        return Row("without teacher", setting, setting.alone), Row("kd", rival, rival.kd)

    def figure(self, row: Row) -> tuple[str, Record | None]:
        """Mean and half of the range; a manifest of it."""
        files = [self.path(row.setting, row, seed) for seed in range(self.seeds)]
        found = [Record.read(file) for file in files if file.exists()]
        scores = [self.score(row, one.passes[-1].scores) for one in found]
        if not scores:
            return "", None
        spread = (max(scores) - min(scores)) / 2
        few = "" if len(scores) == self.seeds else f" ({len(scores)} seed{'s' * (len(scores) > 1)})"
        places = self.places(row)
        around = f" ± {spread:.{places}f}" if len(scores) > 1 else ""
        return f"{mean(scores):.{places}f}{around}{few}", found[0]

    def score(self, row: Row, scores: Mapping[str, float]) -> float:
        """Of a run, in percent where it is a share."""
        name = row.setting.score
        return (100 if name in SHARES else 1) * scores.get(name, 0.0)

    def places(self, row: Row) -> int:
        """Behind the point."""
        return 1 if row.setting.score in SHARES else 2

    def table(self, rows: Iterable[Row], older: str = "") -> str:
        """Of all that is there; rows without runs are taken from an older table."""
        known = {line.rsplit("`", 2)[-2]: line for line in older.splitlines() if "`" in line}
        head = "| family | data | without teacher | plain `kd` | this | teacher | command |\n"
        lines = [head + "|---|---|---|---|---|---|---|"]
        for row in rows:
            mine, record = self.figure(row)
            if record is None:
                lines += [known[command]] if (command := self.command(row)) in known else []
                continue
            alone, kd = (self.figure(other)[0] for other in self.baselines(row))
            has_score = row.setting.score in record.teacher.scores
            theirs = self.score(row, record.teacher.scores)
            cells = [
                row.family,
                row.setting.says,
                alone,
                kd,
                mine,
                f"{theirs:.{self.places(row)}f}" if has_score else "",
            ]
            lines.append(f"| {' | '.join(cells)} | `{record.command}` |")
        return "\n".join(lines)
