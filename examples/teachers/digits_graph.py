"""Train a graph network on a graph of nearest digits, 100 of them labelled.

    python examples/teachers/digits_graph.py --out gcn.pt2

Each of the 1,257 training images is a node with edges to the images that are most like it; labels
of 10 images of each digit spread along them. To answer, the network needs its nodes: it finds the
neighbours of an image among them. `Mlp` is a student that needs none (Zhang et al. 2022, Graph-less
neural networks, arXiv 2110.08727), `few` the data that both learn from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Dataset, Split
from compressc.data.digits import digits

sys.path.insert(0, str(Path(__file__).resolve().parent))

from digits import accuracy, save

NO_LABEL = -100
#: Labels of each digit, edges of a node, and width of the hidden layer.
LABELLED, EDGES, WIDTH = 10, 8, 64


def few() -> Dataset:
    """Digits of which 100 training samples have a label; the others have images alone."""
    data = digits()
    images, labels = data.train.take(len(data.train)).inputs, data.train.all_labels()
    assert labels is not None
    hidden = torch.full_like(labels, NO_LABEL)
    for digit in range(10):
        known = torch.nonzero(labels == digit).flatten()[:LABELLED]
        hidden[known] = digit
    return Dataset("few", Split(images, hidden), data.calibration, data.test)


class Gcn(nn.Module):
    """Two graph convolutions (Kipf and Welling 2017) over neighbours: f32[b,1,8,8] -> f32[b,10].

    A convolution is a linear layer of the mean over the neighbours, which a node is among itself.

    Args:
        images: the nodes, f32[n,1,8,8].
    """

    nodes: Tensor
    hidden: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        nodes = images.flatten(1)
        self.first, self.second = nn.Linear(nodes.shape[1], WIDTH), nn.Linear(WIDTH, 10)
        self.register_buffer("nodes", nodes)
        self.register_buffer("hidden", torch.zeros(len(nodes), WIDTH))

    def near(self, x: Tensor) -> Tensor:
        """The nodes most like rows f32[b,64], by cosine, i64[b,k]."""
        likeness = F.normalize(x, dim=1) @ F.normalize(self.nodes, dim=1).T
        return likeness.topk(EDGES, dim=1).indices

    def convolved(self, near: Tensor) -> Tensor:
        """The hidden values f32[b,w] of nodes with these neighbours."""
        return F.relu(self.first(self.nodes[near].mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        """By the hidden values that the nodes have; see the class."""
        logits: Tensor = self.second(self.hidden[self.near(x.flatten(1))].mean(1))
        return logits


class Mlp(nn.Sequential):
    """A student without a graph: f32[b,1,8,8] -> f32[b,10]."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(images: Tensor, labels: Tensor, epochs: int = 150) -> Gcn:
    """Fit to the labelled nodes; hidden values of the nodes are stored in the end."""
    model, known = Gcn(images), labels != NO_LABEL
    near = model.near(model.nodes)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.01)
    for _ in range(epochs):
        hidden = F.dropout(model.convolved(near), 0.5)
        logits = model.second(hidden[near[known]].mean(1))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[known]).backward()
        optimizer.step()
    with torch.no_grad():
        model.hidden.copy_(model.convolved(near))
    return model.eval()


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gcn.pt2"), help="file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = few()
    part, test = data.train.take(len(data.train)), data.test.take(len(data.test))
    torch.manual_seed(arguments.seed)
    model = train(part.inputs[0], part.labels)
    save(model, part.inputs[0][:4], arguments.out)
    score = accuracy(model, test.inputs[0], test.labels)
    print(f"graph of {len(model.nodes):,} nodes, {EDGES} edges each, 100 labels")
    print(f"test accuracy {score:.2%} on {len(test)} images that are no nodes")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
