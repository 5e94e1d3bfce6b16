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
        channels, y, statistics = x.shape[1], torch.empty_like(x), []
        scale = torch.ones(channels) if weight is None else weight.detach()
        shift = torch.zeros(channels) if bias is None else bias.detach()
        for x_i, y_i in zip(x, y, strict=True):
            mean, inverse_sd = _statistics(x_i, groups, eps)
            _scale(x_i, mean, inverse_sd * scale, shift, out=y_i)
            statistics.append(torch.stack([mean, inverse_sd]))
        ctx.groups = groups
        ctx.save_for_backward(x, weight, torch.stack(statistics))
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last_3d)
        channels, voxels, dx, sums = x.shape[1], x.shape[2:].numel(), torch.empty_like(x), []
        scale = torch.ones(channels) if weight is None else weight.detach()
        for x_i, dy_i, dx_i, (mean, inverse_sd) in zip(x, dy, dx, statistics, strict=True):
            d_weight, d_bias = _sums(x_i, dy_i, mean, inverse_sd)
            sums.append(torch.stack([d_weight, d_bias]))
            # dx = inverse_sd (scale dy - mean(scale dy) - normalised x mean(scale dy normalised x)), means over a group
            slope, offset = (_group_means(scale * part / voxels, ctx.groups) for part in (d_weight, d_bias))
            _scale(x_i, mean, -inverse_sd.square() * slope, -inverse_sd * offset, out=dx_i)
            rows = _rows(dx_i)
            rows.addcmul_((inverse_sd * scale).to(rows.dtype).repeat(rows.shape[1] // channels), _rows(dy_i))
        d_weight, d_bias = (None, None) if weight is None else torch.stack(sums).sum(0)
        return dx, d_weight, d_bias, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """A view of (channel, x, y, z), channels last, as rows of as many whole voxels as make them long enough."""
    channels, voxels = x.shape[0], x[0].numel()
    times = 1
    while times * channels < ROW and voxels % (2 * times) == 0:
        times *= 2
    return x.permute(1, 2, 3, 0).view(voxels // times, times * channels)


def _statistics(x: torch.Tensor, groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / standard deviation of the group of each channel, (channel,) each; x is (channel, x, y, z).

    Variances are sums of squares about the mean: PyTorch's group normalisation over channels-last memory takes the mean
    of squares minus the mean's square, which is 2 % off where the mean is a hundred standard deviations.
    """
    rows, size = _rows(x), x.shape[0] // groups
    zeros = torch.zeros(2, rows.shape[1])  # float32, which makes the results float32
    means, variances = torch.batch_norm_update_stats(rows, *zeros, 0.0)
    means, variances = means.view(-1, groups, size), variances.view(-1, groups, size)
    mean = means.mean((0, 2))
    variance = variances.mean((0, 2)) + (means - mean[:, None]).square().mean((0, 2))
    return mean.repeat_interleave(size), (variance + eps).rsqrt().repeat_interleave(size)


def _sums(
    x: torch.Tensor, dy: torch.Tensor, mean: torch.Tensor, inverse_sd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over the voxels, of dy times the normalised x and of dy: (channel,) each."""
    rows, channels = _rows(x), x.shape[0]
    times = rows.shape[1] // channels
    _, *sums = torch.ops.aten.native_batch_norm_backward(
        *(_rows(dy), rows, None, None, None),
        *(mean.repeat(times), inverse_sd.repeat(times)),
        train=True,
        eps=0.0,
        output_mask=[False, True, True],
    )
    return tuple(part.view(times, channels).sum(0) for part in sums)


def _scale(x: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, *, out: torch.Tensor) -> None:
    """(x - mean) * scale + shift, with (channel,) each, into ``out``."""
    rows, nothing = _rows(x), torch.empty(0)
    times = rows.shape[1] // x.shape[0]
    mean, scale, shift = (part.repeat(times) for part in (mean, scale, shift))
    torch.ops.aten.native_batch_norm.out(
        *(rows, scale, shift, mean, torch.ones_like(mean)),
        training=False,
        momentum=0.0,
        eps=0.0,
        out=_rows(out),
        save_mean=nothing,
        save_invstd=nothing,
    )


def _group_means(values: torch.Tensor, groups: int) -> torch.Tensor:
    """The mean of each channel's group, per channel."""
    return values.view(groups, -1).mean(1).repeat_interleave(len(values) // groups)
