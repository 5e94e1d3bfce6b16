"""Exact Euclidean distance transforms of batches of masks, on the device where they lie."""

import edt
import torch

# A GPU compares every voxel with every voxel of its line; so many comparisons are held at a time (256 MiB, twice).
COMPARISONS = 2**26


def squared_distance(masks: torch.Tensor) -> torch.Tensor:
    """Squared distance, in voxels, from every voxel to the nearest one of the other value.

    masks: boolean (batch, channel, x, y, z). Returns float32 of the same shape, contiguous; an empty and a full mask,
    in which nothing is near, give 0. Exact: squares of whole numbers, below 2^24 for sides up to 2364 voxels.
    Raises TypeError unless the masks are boolean.
    """
    if masks.dtype != torch.bool:
        raise TypeError(f"expected boolean masks, received {masks.dtype}")
    squared = _by_envelopes(masks) if masks.device.type == "cpu" else by_comparison(masks)
    return squared.masked_fill_(squared.isinf(), 0)


def _by_envelopes(masks: torch.Tensor) -> torch.Tensor:
    """Felzenszwalb and Huttenlocher's lower envelopes, in C++. Both sides are labels: one transform serves both."""
    labels = masks.to(torch.uint8).add_(1).contiguous()
    squared = torch.empty(masks.shape, dtype=torch.float32)
    for label, out in zip(labels.flatten(0, 1), squared.flatten(0, 1), strict=True):
        out.copy_(torch.from_numpy(edt.edtsq(label.numpy(), parallel=torch.get_num_threads())))
    return squared


def by_comparison(masks: torch.Tensor) -> torch.Tensor:
    """The same by comparing every voxel with all of its line, axis after axis; inf where nothing is near.

    A voxel of the line that has the other value is at no distance in the axes done before; one of the same value is as
    far as it was found to be. Sum of squares along a line of n voxels: n comparisons per voxel and axis, which suits a
    GPU.
    """
    squared = torch.full(masks.shape, torch.inf, device=masks.device)
    for axis in (2, 3, 4):
        n = masks.shape[axis]
        along = torch.arange(n, device=masks.device, dtype=torch.float32)
        steps = (along[:, None] - along).square_()
        lines = zip(
            masks.movedim(axis, -1).reshape(-1, n).split(max(1, COMPARISONS // n**2)),
            squared.movedim(axis, -1).reshape(-1, n).split(max(1, COMPARISONS // n**2)),
            strict=True,
        )
        nearest = torch.cat(
            [
                torch.where(mask[:, :, None] == mask[:, None, :], before[:, None, :], 0).add_(steps).amin(-1)
                for mask, before in lines
            ]
        )
        moved = squared.movedim(axis, -1).shape
        squared = nearest.reshape(moved).movedim(-1, axis)
    return squared.contiguous()
