"""Trains the detector's teacher and saves it as `detector.pt2`; half a minute on one core."""

import torch
from detector import Detector, shapes
from torch import nn


class Net(nn.Module):
    """Scores of two classes and a box for each cell of 4 x 4 pixels."""

    def __init__(self, width=32):
        super().__init__()
        steps = ((1, width, 1), (width, width, 2), (width, width, 2), (width, width, 1))
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()
                )
                for i, o, stride in steps
            )
        )
        self.scores, self.boxes = nn.Conv2d(width, 2, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        """The outputs by name, as the task reads them."""
        x = self.body(x)
        return {"scores": self.scores(x), "boxes": self.boxes(x)}


def trained(epochs=12):
    """A teacher that finds most shapes."""
    torch.manual_seed(0)
    net, task, (images, targets) = Net(), Detector(), shapes().train
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * 16)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).chunk(16):
            some = {name: value[part] for name, value in targets.items()}
            loss = task.loss(None, net(images[part]), some)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


if __name__ == "__main__":
    batch = torch.export.Dim("batch")
    example = shapes().test[0][:4]
    program = torch.export.export(trained(), (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, "detector.pt2")
