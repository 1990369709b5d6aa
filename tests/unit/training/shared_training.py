"""A run that the processes of `torchrun` share: losses, weights and files go to a folder."""

import json
import sys
from pathlib import Path

import torch
from torch import fx, nn

from compressc import processes
from compressc.data import Split
from compressc.training import Checkpoints, Hooks, Lesson, Recipe, SampleBatches, sharding, train


class Dies(Hooks):
    """Ends the process in a step, as kill -9 does."""

    def __init__(self, step):
        self.step = step

    def stepped(self, moment):
        if moment.step == self.step:
            raise SystemExit(3)


def main(folder, dies_in, shard):
    sharding.LARGE = 16  # of the layers below the first one is
    with processes.joined("cpu"):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        net, scale = fx.symbolic_trace(plain), nn.Linear(1, 1)
        x = torch.randn(53, 3, generator=torch.Generator().manual_seed(1))
        y = x.sin().sum(1, keepdim=True)
        batches = SampleBatches(Split((x, y)), 8, torch.device("cpu"))  # of 8 and of 7

        def terms(module, batch):
            inputs, wanted = batch.samples.inputs
            parts = [p.to_local() if sharding.is_shared(p) else p for p in module.parameters()]
            seen.update(type(p).__name__ for p in module.parameters())
            held.append(sum(part.numel() for part in parts))
            return {"error": (scale(module(inputs)) - wanted).pow(2).mean()}

        def validate(module):
            return -float((scale(module(x)) - y).pow(2).mean())

        seen, held = set(), []
        lesson = Lesson(batches, terms, validate, beside={"scale": scale})
        place = folder / "kept"
        place.mkdir(exist_ok=True)
        result = train(
            net,
            lesson,
            Recipe(epochs=3, learning_rate=0.05, accumulate=2, ema=0.5, clip=0.5, shard=shard),
            hooks=[Dies(dies_in)],
            checkpoints=Checkpoints(place, seconds=0.0),
        )
        found = {
            "losses": [epoch.loss for epoch in result.history],
            "scores": [epoch.score[0] for epoch in result.history],
            "weights": torch.cat([p.detach().flatten() for p in net.parameters()]).tolist(),
            "kinds": sorted(seen),
            "held": held[-1],
        }
        (folder / f"{processes.rank()}-of-{processes.world()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "shard")
