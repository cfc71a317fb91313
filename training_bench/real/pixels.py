"""From batches to what a network sees of them, in training and when it is validated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...storage_bench.decoded import Decoded, decoded_of
from ...storage_bench.launching.ranks import Ranks
from ..peers import Alone
from .plan import RealPlan

REPORTS = 20
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's red, green and blue


class Pixels:
    """What a network sees of a batch: on the device, cut to size, in floats of ImageNet's scale."""

    def __init__(self, plan: RealPlan, device: torch.device) -> None:
        height, width = plan.image_shape[:2]
        rows, columns = plan.side
        top, left = (height - rows) // 2, (width - columns) // 2
        self._cut = (..., slice(top, top + rows), slice(left, left + columns))
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._scale = 1 / torch.tensor(DEVIATION, device=device).view(3, 1, 1)
        self.device = device
        self._layout = torch.channels_last if plan.channels_last else torch.contiguous_format
        self._shuffled = plan.labels == "shuffled"

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Floats (B, 3, rows, columns) and labels (B) of a training batch."""
        return self.pixels(images), self.labels(labels)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels (B) on the device; in another order, drawn on the host, where they are to say nothing."""
        if self._shuffled:
            order = torch.randperm(len(labels))
            order = order.pin_memory() if labels.is_cuda else order  # from other memory a copy waits for the device
            labels = labels[order.to(labels.device, non_blocking=True)]
        return labels.to(self.device, non_blocking=True)

    def pixels(self, images: Tensor) -> Tensor:
        """Floats (B, 3, rows, columns) of uint8 (B, 3, H, W)."""
        cut = images.to(self.device, non_blocking=True)[self._cut]
        return ((cut.float() - self._mean) * self._scale).contiguous(memory_format=self._layout)


@torch.no_grad()
def evaluate(
    model: nn.Module, prepare: Pixels, plan: RealPlan, *, ranks: Ranks, peers: Alone
) -> tuple[dict[str, float], Decoded | None]:
    """Mean loss and accuracy over every image of `plan.validate_on`, each seen by one rank; and who decoded them."""
    from ...loaders.dataloader import DataLoader

    assert plan.validate_on is not None
    images = plan.model_copy(update={"transform": "validation"})
    shards = images.open(plan.validate_on, rank=ranks.rank, world_size=ranks.size, device=str(prepare.device))
    loader: DataLoader[Any] = DataLoader(shards, batch_size=plan.batch_size, num_workers=plan.reader_threads)
    sums = torch.zeros(3, dtype=torch.float64)
    model.eval()
    report_each = max(1, len(loader) // REPORTS)
    for number, (images, labels) in enumerate(loader, 1):
        if number % report_each == 0:
            ranks.report({"validated": number, "batches": len(loader)})
        logits, labels = model(prepare.pixels(images)).double().cpu(), labels.cpu()  # noqa: PLW2901
        sums[0] += cross_entropy(logits, labels, reduction="sum")
        sums[1] += (logits.argmax(1) == labels).sum()
        sums[2] += len(labels)
    loss, right, count = peers.mean(sums, "validation").tolist()
    found = {"loss": loss / count, "accuracy": right / count, "num_images": round(count * ranks.size)}
    return found, decoded_of(shards.decoding, loader.tally, requested=plan.decoder)
