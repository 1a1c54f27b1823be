"""Blocks of `transformer`, `invertible` and `graph` for inference on a CPU, band by band.

Between their convolutions these blocks have features several times as wide as their input. Whole, such features are
written to memory and read again for each activation, and that takes longer than all products. Here they exist for a
band of rows or pixels at a time, which stays in a processor's cache. The functions are those of the readable blocks,
the weights the same tensors; channels are last in memory, so that a convolution 1x1 is a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.nn.graph import Delivery, GraphReasoning
from mmfuse.nn.invertible import Bottleneck
from mmfuse.nn.transformer import ChannelSelfAttention, LocalFeedForward, TransformerBlock
from mmfuse.nn.workspace import buffer

# of the widest features of a band: what a cache holds, with room for what is made of them
_BAND_BYTES = 3 * 2**19
_GRAPH_BYTES = 2**22

Expand = Callable[[int, int, Tensor], None]


def _pixels(image: Tensor) -> Tensor:
    return image.flatten(0, -2)


def _convolution(sequence: nn.Sequential, number: int) -> nn.Conv2d:
    layer = sequence[number]
    assert isinstance(layer, nn.Conv2d)
    return layer


def _matrix(convolution: nn.Conv2d) -> Tensor:
    """Return the weight of a convolution 1x1 as pixels are multiplied by it, (in, out)."""
    return convolution.weight[:, :, 0, 0].T


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def _activate(features: Tensor) -> None:
    F.gelu(features, out=features)  # type: ignore[call-arg] # it has one, but its stub does not say so


def _depthwise(
    expand: Expand, convolution: nn.Conv2d, height: int, width: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yield bands of rows and the depthwise 3x3 convolution of features that are made for it and not kept.

    Args:
        expand: Writes rows `first` to `last` of the features, (rows, W, C). With reflecting borders their first and
            last columns are those around the image.
        convolution: With padding 1, of zeros or reflecting.
        height: Of the features.
        width: W.
        dtype: Of the features.
    """
    channels, reflect = convolution.out_channels, convolution.padding_mode == "reflect"
    rows = max(2, _BAND_BYTES // (width * channels * dtype.itemsize))
    features = buffer("features", (rows + 2, width, channels), dtype)  # with a row before the band and one after it
    for first in range(0, height, rows):
        last = min(height, first + rows)
        if first:
            features[:2] = features[rows:].clone()
        made, end = first + 1 if first else 0, min(height, last + 1)
        if made < end:
            expand(made, end, features[made - first + 1 : end - first + 1])
        if first == 0:
            features[0] = features[2] if reflect else 0
        if last == height:
            features[last - first + 1] = features[last - first - 1] if reflect else 0
        band = features[: last - first + 2].permute(2, 0, 1)[None]  # (1, C, rows + 2, W)
        found = F.conv2d(band, convolution.weight, convolution.bias, padding=(0, 0 if reflect else 1), groups=channels)
        yield slice(first, last), found[0].permute(1, 2, 0).contiguous()


class BandedFeedForward(nn.Module):
    """`transformer.LocalFeedForward` or `invertible.Bottleneck`; (B, c, H, W) in and out."""

    def __init__(self, block: LocalFeedForward | Bottleneck) -> None:
        super().__init__()
        self.widen, self.depthwise, self.narrow = (_convolution(block, number) for number in (0, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        image = x.permute(0, 2, 3, 1)
        out = torch.empty(image.shape, dtype=x.dtype)
        if self.depthwise.padding_mode == "reflect":  # activations are made pixel by pixel: borders can be made first
            padded = torch.empty(*image.shape[:2], image.shape[2] + 2, image.shape[3], dtype=x.dtype)
            padded[:, :, 1:-1] = image
            padded[:, :, 0], padded[:, :, -1] = padded[:, :, 2], padded[:, :, -3]
            image = padded
        image = image.contiguous()
        for one, target in zip(image, out, strict=True):

            def inputs(first: int, last: int, one: Tensor = one) -> Tensor:
                return one[first:last]

            for rows, features in self.bands(inputs, one):
                torch.addmm(_bias(self.narrow), features, _matrix(self.narrow), out=_pixels(target[rows]))
        return out.permute(0, 3, 1, 2)

    def bands(self, inputs: Callable[[int, int], Tensor], like: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their wide features after both activations, (pixels, C), from rows of inputs."""

        def expand(first: int, last: int, out: Tensor) -> None:
            torch.addmm(_bias(self.widen), _pixels(inputs(first, last)), _matrix(self.widen), out=_pixels(out))
            _activate(out)

        for rows, features in _depthwise(expand, self.depthwise, like.shape[0], like.shape[1], like.dtype):
            _activate(features)
            yield rows, _pixels(features)


class BandedTransformerBlock(nn.Module):
    """`transformer.TransformerBlock`; (B, c, H, W) in and out."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        (norm, attention), (norm_forward, feed_forward) = block.attention, block.feed_forward
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(norm_forward, nn.LayerNorm)
        assert isinstance(attention, ChannelSelfAttention)
        assert isinstance(feed_forward, LocalFeedForward)
        self.norm, self.norm_forward = norm, norm_forward
        self.widen, self.depthwise = (_convolution(attention.project, number) for number in (0, 1))
        self.temperature, self.out = attention.temperature, attention.out
        self.feed_forward = BandedFeedForward(feed_forward)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after one block."""
        image = x.permute(0, 2, 3, 1).contiguous()
        out = torch.empty_like(image)
        for one, target in zip(image, out, strict=True):
            values, mixing = self._attend(one)

            def inputs(
                first: int, last: int, one: Tensor = one, target: Tensor = target, values: Tensor = values,
                mixing: Tensor = mixing,
            ) -> Tensor:  # fmt: skip
                new = target[first:last]
                torch.addmm(_pixels(one[first:last]), _pixels(values[first:last]), mixing, out=_pixels(new))
                return _normalised(new, self.norm_forward)

            narrow = self.feed_forward.narrow
            for rows, features in self.feed_forward.bands(inputs, one):
                _pixels(target[rows]).add_(_bias(narrow)).addmm_(features, _matrix(narrow))
        return out.permute(0, 3, 1, 2)

    def _attend(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values, (H, W, c), and the matrix that their channels are mixed with, (c, c)."""
        height, width, channels = image.shape

        def expand(first: int, last: int, out: Tensor) -> None:
            torch.mm(_pixels(_normalised(image[first:last], self.norm)), _matrix(self.widen), out=_pixels(out))

        values = buffer("values", (height, width, channels), image.dtype)
        products = image.new_zeros(channels, channels)
        squares = image.new_zeros(2 * channels)
        for rows, projected in _depthwise(expand, self.depthwise, height, width, image.dtype):
            query, key, value = _pixels(projected).chunk(3, dim=1)
            products.addmm_(query.T, key)
            squares += _pixels(projected)[:, : 2 * channels].square().sum(dim=0)
            values[rows] = value.view(values[rows].shape)
        heads = len(self.temperature)
        each = channels // heads
        query_length, key_length = squares.sqrt().view(2, heads, each)
        blocks = products.view(heads, each, heads, each).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        likeness = blocks / (query_length[:, :, None] * key_length[:, None]).clamp_min(1e-6)
        weights = (likeness * self.temperature).softmax(dim=-1)  # (heads, each, each)
        return values, torch.block_diag(*weights).T @ _matrix(self.out)


def _normalised(image: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(image, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class BandedGraphReasoning(nn.Module):
    """`graph.GraphReasoning`: once the nodes are made, each pixel is by itself; (B, c, H, W) twice, in and out."""

    def __init__(self, graph: GraphReasoning) -> None:
        super().__init__()
        self.iterations, self.nodes, self.merge = graph.iterations, graph.nodes, graph.merge
        self.across, self.within = graph.across, graph.within
        self.gamma = graph.gamma

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reasoned features of both modalities."""
        both = torch.cat([first, second])
        batch, channels, height, width = first.shape
        maps = [x.permute(0, 2, 3, 1).reshape(2, batch, -1, channels) for x in [both, *(n(both) for n in self.nodes)]]
        out = torch.empty(2, batch, height * width, channels, dtype=both.dtype)
        step = max(64, _GRAPH_BYTES // (14 * len(self.nodes) * channels * both.itemsize))
        for one in range(batch):
            for start in range(0, height * width, step):
                band = slice(start, start + step)
                features, *nodes = (x[:, one, band] for x in maps)
                out[:, one, band] = self._reason(features, torch.stack(nodes))
        merged = out.view(2, batch, height, width, channels).permute(0, 1, 4, 2, 3)
        return merged[0], merged[1]

    def _reason(self, features: Tensor, nodes: Tensor) -> Tensor:
        """Return the features of both modalities, (2, n, c), from them and their nodes, (scales, 2, n, c)."""
        channels = nodes.shape[-1]
        joint = nodes.new_empty(*nodes.shape[:-1], 2 * channels)  # messages and nodes
        messages = joint[..., :channels]
        for _ in range(self.iterations):
            edges, bias = _edges(self.across, nodes), _bias(self.across.edge)
            difference = edges[:, 0] - edges[:, 1]
            torch.mul((difference + bias).sigmoid_(), nodes[:, 1], out=messages[:, 0])
            torch.mul(torch.sub(bias, difference, out=difference).sigmoid_(), nodes[:, 0], out=messages[:, 1])
            nodes = _updated(self.across, nodes, joint)
            edges, bias = _edges(self.within, nodes), _bias(self.within.edge)
            messages.zero_()
            for k in range(len(nodes)):
                for other in range(len(nodes)):
                    if other != k:
                        weight = (edges[k] - edges[other]).add_(bias).sigmoid_()
                        messages[k].addcmul_(weight, nodes[other])
            nodes = nodes.lerp(_updated(self.within, nodes, joint), self.gamma)
        of_features, of_nodes = _matrix(self.merge).split(channels)
        merged = torch.addmm(_bias(self.merge), _pixels(features), of_features)
        return merged.addmm_(_pixels(nodes.mean(dim=0)), of_nodes).view(features.shape)


def _edges(delivery: Delivery, nodes: Tensor) -> Tensor:
    """Return the nodes as edges see them: a difference's edge is the difference of two of these, plus the bias."""
    return torch.mm(_pixels(nodes), _matrix(delivery.edge)).view(nodes.shape)


def _updated(delivery: Delivery, nodes: Tensor, joint: Tensor) -> Tensor:
    """Do as `Delivery._update`; `joint` holds the messages, and room for what is beside them."""
    channels = nodes.shape[-1]
    beside = joint[..., channels:]
    beside.copy_(nodes)
    gates = torch.addmm(_bias(delivery.gates), _pixels(joint), _matrix(delivery.gates)).sigmoid_().view(joint.shape)
    update, reset = gates.chunk(2, dim=-1)
    beside.mul_(reset)
    candidate = torch.addmm(_bias(delivery.candidate), _pixels(joint), _matrix(delivery.candidate))
    # tanh x = 2 sigmoid(2 x) - 1, and torch's sigmoid is six times as fast
    candidate.mul_(2).sigmoid_().mul_(2).sub_(1)
    return nodes.lerp(candidate.view(nodes.shape), update)


BANDED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    TransformerBlock: BandedTransformerBlock,
    LocalFeedForward: BandedFeedForward,
    Bottleneck: BandedFeedForward,
    GraphReasoning: BandedGraphReasoning,
}
