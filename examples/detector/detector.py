"""A detector as a task of one's own: boxes of two kinds of shapes on a grid, judged by mAP.

python teacher.py
compressc detector.pt2 --task detector.py:Detector --data detector.py:shapes -p prune,distill
"""

from typing import ClassVar

import torch
import torchmetrics
from torch.nn import functional as F

from compressc.tasks import NO_LABEL, Metric, Task

SIZE, STRIDE, MOST = 24, 4, 3  # pixels of an image, of a cell; objects in an image
MAP50 = Metric(name="map50", title="mAP@50", unit="%", text="mean average precision at IoU 0.5")


class Detector(Task):
    """A score of each class and a box in each cell; targets are `boxes` and `classes`."""

    name = "detector"
    targets = "boxes f[n, k, 4] (middle, size; in pixels) and classes i[n, k], -100 for none"
    output = "scores"
    kinds: ClassVar = {"scores": "independent_scores", "boxes": "values"}

    def check(self, outputs, targets):
        """What is wrong with the targets of a few samples, or nothing."""
        if not isinstance(targets, dict) or {"boxes", "classes"} - set(targets):
            return f"{sorted(targets) if isinstance(targets, dict) else type(targets).__name__}"
        if targets["boxes"].shape != (*targets["classes"].shape, 4):
            return f"boxes {list(targets['boxes'].shape)}, classes {list(targets['classes'].shape)}"
        return ""

    def loss(self, settled, values, targets):
        """Binary cross entropy of all scores; the distance of boxes where an object is."""
        wanted = torch.zeros_like(values["scores"])
        image, which, row, column = place(targets)
        wanted[image, targets["classes"][image, which], row, column] = 1.0
        boxes = decode(values["boxes"])[image, :, row, column]
        off = F.l1_loss(boxes, targets["boxes"][image, which]) if len(image) else boxes.sum()
        return F.binary_cross_entropy_with_logits(values["scores"], wanted) * 10 + off / STRIDE

    def predictions(self, settled, outputs):
        """Scores at their local peaks, 0 elsewhere, and boxes in pixels."""
        scores = outputs["scores"].sigmoid()
        peaks = scores == F.max_pool2d(scores, 3, 1, 1)
        return scores * peaks, decode(outputs["boxes"])

    def scores(self, settled):
        """Mean average precision."""
        return {MAP50: MeanAveragePrecision()}


def place(targets):
    """Of every object: its image, its number there, and its cell."""
    image, which = torch.nonzero(targets["classes"] != NO_LABEL, as_tuple=True)
    column, row = (targets["boxes"][image, which, :2] / STRIDE).long().unbind(1)
    return image, which, row, column


def decode(boxes):
    """Boxes `[b, 4, g, g]` in pixels: their middle from the cell's, their size in cells."""
    at = (torch.arange(boxes.shape[-1], device=boxes.device) + 0.5) * STRIDE
    middle = torch.stack(torch.meshgrid(at, at, indexing="xy"))
    return torch.cat([middle + boxes[:, :2] * STRIDE, boxes[:, 2:] * STRIDE], 1)


class MeanAveragePrecision(torchmetrics.Metric):
    """Area under precision over recall of all images, ranked together; mean over the classes."""

    def __init__(self):
        super().__init__()
        self.add_state("found", [], None)  # rows (class, score, whether it hits)
        self.add_state("objects", torch.zeros(2), "sum")

    def update(self, predictions, targets):
        """Match each image's detections, the surest first, with objects that are still free."""
        for scores, boxes, *wanted in zip(
            *predictions, targets["boxes"], targets["classes"], strict=True
        ):
            for kind in range(len(scores)):
                objects = wanted[0][wanted[1] == kind]
                self.objects[kind] += len(objects)
                order = scores[kind].flatten().argsort(descending=True)[: 4 * MOST]
                free = torch.ones(len(objects), dtype=torch.bool)
                for cell in order:
                    overlap = iou(boxes.flatten(1)[:, cell], objects) * free
                    hit = len(objects) > 0 and float(overlap.max()) >= 0.5
                    if hit:
                        free[overlap.argmax()] = False
                    self.found.append(torch.tensor([kind, scores[kind].flatten()[cell], hit]))

    def compute(self):
        """In 0..1."""
        found = torch.stack(self.found)
        precisions = []
        for kind in self.objects.nonzero().flatten():
            rows = found[found[:, 0] == kind]
            hits = rows[rows[:, 1].argsort(descending=True, stable=True), 2]
            precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
            precisions.append((precision * hits).sum() / self.objects[kind])
        return torch.stack(precisions).mean()


def iou(box, others):
    """Intersection over union of a box `[4]` with others `[k, 4]`."""
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    shared = (high - low).clamp_min(0).prod(1)
    return shared / (box[2:].prod() + others[:, 2:].prod(1) - shared)


class Shapes:
    """Bright filled and hollow rectangles on noise, one to three in an image."""

    def __init__(self, train=512, test=256):
        self.train, self.test = drawn(train, seed=0), drawn(test, seed=1)
        images, targets = self.train
        self.calibration = images[:128], {name: value[:128] for name, value in targets.items()}


def shapes():
    """The data set."""
    return Shapes()


def drawn(count, seed):
    """Images f32[n, 1, 24, 24] and their targets."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, SIZE, SIZE, generator=generator) * 0.15
    boxes, classes = torch.zeros(count, MOST, 4), torch.full((count, MOST), NO_LABEL)
    for image in range(count):
        for which in range(int(torch.randint(1, MOST + 1, (), generator=generator))):
            kind, wide, high = torch.randint(0, 2, (3,), generator=generator).tolist()
            wide, high = 5 + 2 * wide, 5 + 2 * high
            left = 8 * which + 1  # in strips, so that none covers another
            top = int(torch.randint(0, SIZE - high, (), generator=generator))
            wide = min(wide, 7)
            images[image, 0, top : top + high, left : left + wide] += 1.0
            if kind:
                images[image, 0, top + 1 : top + high - 1, left + 1 : left + wide - 1] -= 1.0
            middle = (left + wide / 2, top + high / 2)
            boxes[image, which] = torch.tensor([*middle, wide, high])
            classes[image, which] = kind
    return images, {"boxes": boxes, "classes": classes}
