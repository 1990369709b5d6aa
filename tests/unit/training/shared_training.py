"""A run that the processes of `torchrun` share: losses, weights and files go to a folder."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from compressc import processes
from compressc.data import Split
from compressc.training import Checkpoints, Hooks, Lesson, Recipe, SampleBatches, train


class Dies(Hooks):
    """Ends the process in a step, as kill -9 does."""

    def __init__(self, step):
        self.step = step

    def stepped(self, moment):
        if moment.step == self.step:
            raise SystemExit(3)


def main(folder, dies_in):
    with processes.joined("cpu"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        x = torch.randn(53, 3, generator=torch.Generator().manual_seed(1))
        y = x.sin().sum(1, keepdim=True)
        batches = SampleBatches(Split((x, y)), 8, torch.device("cpu"))  # of 8 and of 7

        def terms(module, batch):
            inputs, wanted = batch.samples.inputs
            return {"error": (module(inputs) - wanted).pow(2).mean()}

        lesson = Lesson(batches, terms, lambda module: -float((module(x) - y).pow(2).mean()))
        place = folder / "kept"
        place.mkdir(exist_ok=True)
        result = train(
            net,
            lesson,
            Recipe(epochs=3, learning_rate=0.05, accumulate=2),
            hooks=[Dies(dies_in)],
            checkpoints=Checkpoints(place, seconds=0.0),
        )
        found = {
            "losses": [epoch.loss for epoch in result.history],
            "scores": [epoch.score[0] for epoch in result.history],
            "weights": torch.cat([p.detach().flatten() for p in net.parameters()]).tolist(),
        }
        (folder / f"{processes.rank()}-of-{processes.world()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
