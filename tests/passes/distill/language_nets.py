"""Small language models by hand, and text for them."""

import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.testing import export_graph

#: Words of the texts, and their length.
WORDS, LENGTH = 17, 12


class Bigrams(nn.Module):
    """The next word by the last two: i64[b,s] -> f32[b,s,words]."""

    def __init__(self, words=WORDS, width=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.past = nn.Embedding(words, width), nn.Linear(2 * width, 24)
        self.scores = nn.Linear(24, words)

    def forward(self, ids):
        known = self.table(ids)
        before = torch.cat([torch.zeros_like(known[:, :1]), known[:, :-1]], 1)
        return self.scores(torch.relu(self.past(torch.cat([known, before], 2))))


def graph_of(net):
    """With an open batch."""
    return export_graph(net.eval(), texts(4))


def texts(count, seed=0, words=WORDS, length=LENGTH):
    """Each word follows from the last two, but for one in eight: i64[n,s]."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(words, (count, length), generator=draw)
    for t in range(2, length):
        right = (3 * ids[:, t - 1] + ids[:, t - 2] % 2) % words
        ids[:, t] = torch.where(torch.rand(count, generator=draw) < 0.125, ids[:, t], right)
    return ids


def trained(net, steps=300):
    """By the texts."""
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(steps):
        ids = texts(64, step + 1)
        scores = net(ids)[:, :-1].flatten(0, 1)
        loss = nn.functional.cross_entropy(scores, ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def dataset(count=256):
    train, test = Split((texts(count, 1001),)), Split((texts(64, 1002),))
    return Dataset("texts", train, train.take(32), test)
