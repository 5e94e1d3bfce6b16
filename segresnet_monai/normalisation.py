"""Group and instance normalisation in bfloat16 on the CPU, with a backward pass that is limited by memory alone.

PyTorch's own (2.13) over channels-last memory works on one voxel's channels at a time and leaves vector instructions
unused where these are few: at 16 channels it takes as long as all convolutions beside it. Sums and scalings per
channel do not care where a voxel ends, so here many voxels' channels make one long row, which PyTorch's batch
normalisation of rows takes as so many features.
"""

from typing import Any

import torch

ROW = 512
"""Values from which on a longer row is no faster."""


def with_fast_backward(network: torch.nn.Module) -> torch.nn.Module:
    """The network, whose group and instance normalisations take this module's backward pass where it is meant for."""
    for layer in network.modules():
        # Another class of the same layer, so that its weights' names and whoever holds the layer stay as they are.
        if type(layer) is torch.nn.GroupNorm:
            layer.__class__ = GroupNorm
        elif type(layer) is torch.nn.InstanceNorm3d and not layer.track_running_stats:
            layer.__class__ = InstanceNorm3d
    return network


class GroupNorm(torch.nn.GroupNorm):
    """PyTorch's, faster backwards in bfloat16 on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _is_meant_for(x):
            return _Normalise.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


class InstanceNorm3d(torch.nn.InstanceNorm3d):
    """PyTorch's, faster in bfloat16 on the CPU: group normalisation with a group per channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _is_meant_for(x):
            return _Normalise.apply(x, self.weight, self.bias, self.num_features, self.eps)
        return super().forward(x)


def _is_meant_for(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.ndim == 5


class _Normalise(torch.autograd.Function):
    """Normalised (n, channel, x, y, z); statistics, weights and their gradients are float32."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, eps: float
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        samples, channels, voxels = len(x), x.shape[1], x.shape[2:].numel()
        y, mean, inverse_sd = torch.native_group_norm(x, weight, bias, samples, channels, voxels, groups, eps)
        ctx.save_for_backward(x, weight, mean, inverse_sd)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, means, inverse_sds = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last_3d)
        channels, groups = x.shape[1], means.shape[1]
        dx = torch.empty_like(x)
        weights = torch.ones(channels) if weight is None else weight.detach()
        sums = []  # over the voxels of a sample, per channel: of dy times the normalised x, and of dy
        for x_i, dy_i, dx_i, mean, inverse_sd in zip(x, dy, dx, means.float(), inverse_sds.float(), strict=True):
            rows, dy_rows, dx_rows = map(_rows, (x_i, dy_i, dx_i))
            times = rows.shape[1] // channels
            mean, inverse_sd = (part.repeat_interleave(channels // groups) for part in (mean, inverse_sd))
            found = torch.ops.aten.native_batch_norm_backward(
                dy_rows,
                rows,
                None,
                None,
                None,
                mean.repeat(times),
                inverse_sd.repeat(times),
                True,
                0.0,
                [False, True, True],
            )
            d_weight, d_bias = (part.view(times, channels).sum(0) for part in found[1:])
            sums.append((d_weight, d_bias))
            # dx = inverse_sd * (w dy - mean of w dy - x normalised * mean of (w dy * x normalised)), means over a group
            slope, shift = (_group_mean(weights * part, groups, x_i[0].numel()) for part in (d_weight, d_bias))
            rest = torch.native_batch_norm(
                rows,
                (-inverse_sd.square() * slope).repeat(times),
                (-inverse_sd * shift).repeat(times),
                mean.repeat(times),
                torch.ones(rows.shape[1]),
                False,
                0.0,
                0.0,
            )[0]
            scale = (inverse_sd * weights).to(x.dtype).repeat(times)
            torch.addcmul(rest, scale, dy_rows, out=dx_rows)
        if weight is None:
            return dx, None, None, None, None
        d_weights, d_biases = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
        return dx, d_weights, d_biases, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """A view of (channel, x, y, z), channels last, as rows of as many whole voxels as make them long enough."""
    channels, voxels = x.shape[0], x[0].numel()
    times = 1
    while times * channels < ROW and voxels % (2 * times) == 0:
        times *= 2
    return x.permute(1, 2, 3, 0).view(voxels // times, times * channels)


def _group_mean(values: torch.Tensor, groups: int, voxels: int) -> torch.Tensor:
    """Sums over voxels, per channel, to their mean over the values of the channel's group, per channel again."""
    size = len(values) // groups
    return (values.view(groups, size).sum(1) / (size * voxels)).repeat_interleave(size)
