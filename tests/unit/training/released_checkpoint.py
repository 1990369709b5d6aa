"""Writes the checkpoint that a release left behind: with the code of that release, once.

    git worktree add ../release f0c0831
    cd ../release && PYTHONPATH=. python <here>/released_checkpoint.py <here>/released/f0c0831

The run dies in its second epoch. Never write the files of a release anew by later code: they are
there to show that it still reads them.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from compressc.training import Checkpoints, Hooks, Lesson, Recipe, TensorBatches, train

#: Step that the run dies in: the middle of the second epoch, of three steps each.
DIES_IN = 5


class Killed(BaseException):
    """In place of kill -9."""


class Dies(Hooks):
    """Ends the run in a step."""

    def __init__(self, step):
        self.step = step

    def stepped(self, moment):
        if moment.step == self.step:
            raise Killed


def run(folder, dies_in=0, say=lambda text: None):
    """A net with buffers, dropout, a moving average and a module beside it; (result, tensors)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    scale = nn.Linear(1, 1)
    x = torch.randn(24, 2)
    wanted = x.sum(1, keepdim=True)

    def terms(module, batch):
        error = (scale(module(batch[0])) - batch[0].sum(1, keepdim=True)).pow(2).mean()
        return {"error": error, "size": net[0].weight.pow(2).sum()}

    def validate(module):
        return -float((scale(module(x)) - wanted).pow(2).mean())

    lesson = Lesson(
        TensorBatches([x], 4), terms, validate, [(x,)], {"size": 0.1}, beside={"scale": scale}
    )
    recipe = Recipe(epochs=4, learning_rate=0.05, seed=3, accumulate=2, ema=0.9)
    kept = Checkpoints(folder, seconds=0.0, say=say)
    result = train(net, lesson, recipe, hooks=[Dies(dies_in)], checkpoints=kept)
    both = nn.ModuleDict({"net": net, "scale": scale})
    return result, both.state_dict()


def last(folder):
    """The folder of the last checkpoint."""
    return max(path for path in folder.iterdir() if not path.name.startswith("."))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        try:
            run(aside, DIES_IN)
        except Killed:
            kept = last(aside)
            (target / kept.name).mkdir(parents=True)
            for path in kept.iterdir():
                (target / kept.name / path.name).write_bytes(path.read_bytes())
