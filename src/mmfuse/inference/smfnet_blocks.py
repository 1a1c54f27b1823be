"""SMFNet's blocks (`mmfuse.nn.smfnet`: transformer, invertible, graph) for inference on a CPU, band by band.

Between their convolutions, these blocks have features several times as wide as their input. Storing whole feature maps
means writing them to memory and reading them again for each activation, which takes much of the time and most of the
memory. Here they exist only for a band of rows or pixels at a time. The functions and weight tensors are those of the
original blocks; channels are last in memory, so that a 1x1 convolution is a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.fastconv.workspace import buffer
from mmfuse.nn.smfnet.graph import GatedUpdate, GraphReasoning, WithinModality
from mmfuse.nn.smfnet.invertible import Bottleneck
from mmfuse.nn.smfnet.parts import Encoder
from mmfuse.nn.smfnet.transformer import (
    ChannelSelfAttention,
    DenseTransformerBlock,
    FeedForward,
    LocalFeedForward,
    TransformerBlock,
)

# size of the widest features of a band: fits into a cache, with room for what is computed from them
_BAND_BYTES = 3 * 2**19
_GRAPH_BYTES = 2**22
_DENSE_BYTES = (
    2**25
)  # size of a dense convolution's input for one band: large enough for its tiles, small compared with the image

Expand = Callable[[int, int, Tensor], None]


def _pixels(image: Tensor) -> Tensor:
    return image.flatten(0, -2)


def _convolution(sequence: nn.Sequential, number: int) -> nn.Conv2d:
    layer = sequence[number]
    assert isinstance(layer, nn.Conv2d)
    return layer


def _matrix(convolution: nn.Conv2d) -> Tensor:
    """Return the weight of a 1x1 convolution as the matrix that multiplies pixels, (in, out)."""
    return convolution.weight[:, :, 0, 0].T


def _multiply(pixels: Tensor, convolution: nn.Conv2d, out: Tensor) -> None:
    """Apply a 1x1 convolution; (n, in) and (n, out)."""
    if convolution.bias is None:
        torch.mm(pixels, _matrix(convolution), out=out)
    else:
        torch.addmm(convolution.bias, pixels, _matrix(convolution), out=out)


def _gelu(features: Tensor) -> None:
    F.gelu(features, out=features)  # type: ignore[call-arg] # `out` exists but is missing from the stub


def _depthwise(
    expand: Expand, convolution: nn.Conv2d, height: int, width: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yield bands of rows and the 3x3 depthwise convolution of features that exist only for the band.

    Args:
        expand: Writes rows `first` to `last` of the features, (rows, W, C). With reflecting borders, their first and
            last columns are the border columns.
        convolution: With padding 1, zero or reflecting.
        height: Height of the features.
        width: W.
        dtype: Data type of the features.
    """
    channels, reflect = convolution.out_channels, convolution.padding_mode == "reflect"
    rows = max(2, _BAND_BYTES // (width * channels * dtype.itemsize))
    features = buffer("features", (rows + 2, width, channels), dtype)  # with one row before and one after the band
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
        self.local = isinstance(block, LocalFeedForward)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        image = x.permute(0, 2, 3, 1)
        out = torch.empty(image.shape, dtype=x.dtype)
        if self.depthwise.padding_mode == "reflect":  # activations are pointwise, so borders can be added first
            padded = torch.empty(*image.shape[:2], image.shape[2] + 2, image.shape[3], dtype=x.dtype)
            padded[:, :, 1:-1] = image
            padded[:, :, 0], padded[:, :, -1] = padded[:, :, 2], padded[:, :, -3]
            image = padded
        image = image.contiguous()
        for one, target in zip(image, out, strict=True):

            def inputs(first: int, last: int, one: Tensor = one) -> Tensor:
                return one[first:last]

            for rows, features in self.bands(inputs, one):
                _multiply(features, self.narrow, _pixels(target[rows]))
                if self.local:
                    _gelu(target[rows])
                    target[rows] += one[rows]
        return out.permute(0, 3, 1, 2)

    def bands(self, inputs: Callable[[int, int], Tensor], like: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows and their wide features after both activations, (pixels, C), from input rows."""

        def expand(first: int, last: int, out: Tensor) -> None:
            _multiply(_pixels(inputs(first, last)), self.widen, _pixels(out))
            self._activate(out)

        for rows, features in _depthwise(expand, self.depthwise, like.shape[0], like.shape[1], like.dtype):
            self._activate(features)
            yield rows, _pixels(features)

    def _activate(self, features: Tensor) -> None:
        if self.local:
            _gelu(features)
        else:
            features.clamp_(0, 6)


class BandedTransformerBlock(nn.Module):
    """`transformer.TransformerBlock` or `transformer.DenseTransformerBlock`; (B, c, H, W) in and out."""

    def __init__(self, block: TransformerBlock | DenseTransformerBlock) -> None:
        super().__init__()
        (norm, attention), (norm_forward, feed_forward) = block.attention, block.feed_forward
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(norm_forward, nn.LayerNorm)
        assert isinstance(attention, ChannelSelfAttention)
        assert isinstance(feed_forward, LocalFeedForward | FeedForward)
        self.norm, self.norm_forward = norm, norm_forward
        self.widen, self.local = (_convolution(attention.project, number) for number in (0, 1))
        self.temperature, self.out = attention.temperature, attention.out
        self.feed_forward = BandedFeedForward(feed_forward) if isinstance(feed_forward, LocalFeedForward) else None
        self.pointwise = feed_forward if isinstance(feed_forward, FeedForward) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after one block."""
        image = x.permute(0, 2, 3, 1).contiguous()
        out = torch.empty_like(image)
        for one, target in zip(image, out, strict=True):
            values, mixing = self._attend(one)
            if self.feed_forward is not None:
                self._forward_locally(self.feed_forward, one, values, mixing, target)
            elif self.pointwise is not None:
                self._forward_pointwise(self.pointwise, one, values, mixing, target)
        return out.permute(0, 3, 1, 2)

    def _forward_locally(
        self, layers: BandedFeedForward, one: Tensor, values: Tensor, mixing: Tensor, target: Tensor
    ) -> None:
        """Write the result of attention and LeFF on an image to `target`; all (H, W, c) except mixing, (c, c)."""

        def inputs(first: int, last: int) -> Tensor:
            new = target[first:last]
            torch.addmm(_pixels(one[first:last]), _pixels(values[first:last]), mixing, out=_pixels(new))
            return _normalised(new, self.norm_forward)

        for rows, features in layers.bands(inputs, one):
            narrow = torch.empty_like(target[rows])
            _multiply(features, layers.narrow, _pixels(narrow))
            _gelu(narrow)
            narrow += _normalised(target[rows], self.norm_forward)
            target[rows] += narrow

    def _forward_pointwise(
        self, layers: FeedForward, one: Tensor, values: Tensor, mixing: Tensor, target: Tensor
    ) -> None:
        """Like `_forward_locally`, for a pointwise feed-forward network."""
        widen, narrow = (_convolution(layers, number) for number in (0, 2))
        step = max(64, _BAND_BYTES // (widen.out_channels * one.itemsize))
        for old, value, new in zip(*(_pixels(x).split(step) for x in (one, values, target)), strict=True):
            torch.addmm(old, value, mixing, out=new)
            wide = buffer("features", (len(new), widen.out_channels), new.dtype)
            _multiply(_normalised(new, self.norm_forward), widen, wide)
            _gelu(wide)
            new.addmm_(wide, _matrix(narrow))

    def _attend(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values, (H, W, c), and the matrix that mixes their channels, (c, c)."""
        height, width, channels = image.shape
        values = buffer("values", (height, width, channels), image.dtype)
        products = image.new_zeros(channels, channels)
        squares = image.new_zeros(2 * channels)
        for rows, projected in self._projected(image):
            counted = _pixels(self.counted(projected, rows, height))
            query, key, _ = counted.chunk(3, dim=1)
            products.addmm_(query.T, key)
            squares += counted[:, : 2 * channels].square().sum(dim=0)
            values[rows] = projected[..., 2 * channels :]
        products, squares = self.of_image(products, squares)
        heads = len(self.temperature)
        each = channels // heads
        query_length, key_length = squares.sqrt().clamp_min(1e-12).view(2, heads, each)
        blocks = products.view(heads, each, heads, each).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        likeness = blocks / (query_length[:, :, None] * key_length[:, None])
        weights = (likeness * self.temperature).softmax(dim=-1)  # (heads, each, each)
        return values, torch.block_diag(*weights).T @ _matrix(self.out)

    def counted(self, projected: Tensor, _rows: slice, _height: int) -> Tensor:
        """Return those pixels of a band that count in the sums of the attention."""
        return projected

    def of_image(self, products: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of the attention over the image."""
        return products, squares

    def _projected(self, image: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield bands of rows and their queries, keys and values, (rows, W, 3 c)."""

        def expand(first: int, last: int, out: Tensor) -> None:
            _multiply(_pixels(_normalised(image[first:last], self.norm)), self.widen, _pixels(out))

        height, width, _ = image.shape
        if self.local.groups > 1:
            yield from _depthwise(expand, self.local, height, width, image.dtype)
            return
        channels = self.local.in_channels
        step = max(8, _DENSE_BYTES // (width * channels * image.itemsize))
        for first in range(0, height, step):
            last = min(height, first + step)
            top, bottom = max(0, first - 1), min(height, last + 1)  # outside the image there are zeros
            wide = buffer("features", (bottom - top, width, channels), image.dtype)
            expand(top, bottom, wide)
            found = self.local(wide.permute(2, 0, 1)[None])[0].permute(1, 2, 0)  # (bottom - top, W, 3 c)
            yield slice(first, last), found[first - top : last - top].contiguous()


def _normalised(image: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(image, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class BandedGraphReasoning(nn.Module):
    """`graph.GraphReasoning` as published: between creating and merging the nodes, all pixels are independent.

    Shape: (B, c, H, W) twice, in and out.
    """

    def __init__(self, graph: GraphReasoning) -> None:
        super().__init__()
        self.iterations, self.nodes, self.merge = graph.iterations, graph.nodes, graph.merge
        self.across, self.within = graph.across, graph.within

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reasoned features of both modalities."""
        batch, channels, height, width = infrared.shape
        images = (infrared, visible)
        count = len(list(self.nodes[0].children()))
        joined = torch.empty(2, batch, height * width, count, channels, dtype=infrared.dtype)
        for image, nodes, target in zip(images, self.nodes, joined, strict=True):
            for number, node in enumerate(nodes.children()):
                target[:, :, number] = node(image).permute(0, 2, 3, 1).reshape(batch, -1, channels)
        step = max(64, _GRAPH_BYTES // (14 * count * channels * joined.itemsize))
        for one in range(batch):
            for start in range(0, height * width, step):
                band = joined[:, one, start : start + step]  # (2, n, nodes, c)
                band.copy_(self._reason(band.transpose(1, 2).contiguous()).transpose(1, 2))
        merged = [
            merge(both.view(batch, height, width, -1).permute(0, 3, 1, 2))
            for merge, both in zip(self.merge, joined, strict=True)
        ]
        return merged[0], merged[1]

    def _reason(self, nodes: Tensor) -> Tensor:
        """Return the nodes of both modalities after all messages, (2, nodes, n, c) in and out."""
        across = torch.stack([layer.weight[0, :, 0, 0] for layer in (self.across.to_visible, self.across.to_infrared)])
        for _ in range(self.iterations):
            edges = (_pixels(nodes) @ across.T).view(*nodes.shape[:-1], 2)  # an edge is linear in the nodes
            to_visible, to_infrared = (edges[0] - edges[1]).split(1, dim=-1)  # (nodes, n, 1)
            infrared, visible = nodes
            nodes = torch.stack(
                [
                    torch.addcmul(infrared, visible, to_infrared.neg().sigmoid_()),
                    torch.addcmul(visible, infrared, to_visible.sigmoid()),
                ]
            )
        joint = nodes.new_empty(*nodes.shape[1:-1], 2 * nodes.shape[-1])  # messages and nodes
        for within, own in zip(self.within, nodes, strict=True):
            assert isinstance(within, WithinModality)
            for _ in range(self.iterations):
                _tell(within, own, joint)
        return nodes


def _tell(within: WithinModality, nodes: Tensor, joint: Tensor) -> None:
    """Same as `WithinModality`, in place; (nodes, n, c), and a buffer for twice the channels."""
    count, pixels, channels = nodes.shape
    neighbours = count - 1
    edges = (_pixels(nodes) @ within.edges.weight[:, :, 0, 0].T).view(count, pixels, neighbours)
    messages = joint[..., :channels]
    torch.sub(nodes.sum(dim=0), nodes, out=messages)  # sum over the neighbours, before gating
    for number in range(count):
        others = [other for other in range(count) if other != number]
        gates = torch.stack([edges[number, :, k] - edges[other, :, k] for k, other in enumerate(others)], dim=-1)
        messages[number].unflatten(-1, (-1, neighbours)).mul_(gates.sigmoid_()[:, None])
    assert within.gamma is not None
    nodes.add_(_updated(within.update, nodes, joint), alpha=float(within.gamma))


def _updated(update: GatedUpdate, nodes: Tensor, joint: Tensor) -> Tensor:
    """Same as `GatedUpdate`; `joint` holds the messages, and has room for as many other channels."""
    beside = joint[..., nodes.shape[-1] :]
    beside.copy_(nodes)
    gates = torch.empty_like(joint)
    _multiply(_pixels(joint), update.gates, _pixels(gates))
    reset, share = gates.sigmoid_().chunk(2, dim=-1)
    beside.mul_(reset)
    candidate = torch.empty_like(nodes)
    _multiply(_pixels(joint), update.candidate, _pixels(candidate))
    # tanh x = 2 sigmoid(2 x) - 1, and torch's sigmoid is six times faster
    candidate.mul_(2).sigmoid_().mul_(2).sub_(1)
    return nodes.lerp(candidate, share)


def _banded_graph(graph: GraphReasoning) -> nn.Module:
    """Return the banded graph if it is as published and its gates apply to the same channels for all neighbours."""
    within = graph.within[0]
    assert isinstance(within, WithinModality)
    if within.gamma is None or within.update.candidate.out_channels % within.edges.groups:
        return graph
    return BandedGraphReasoning(graph)


class EncoderOneByOne(Encoder):
    """`smfnet_parts.Encoder`, one image of a batch at a time, because its features take most of the memory."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.shallow, encoder.base, encoder.detail)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return shallow, base and detail features."""
        found = [super(EncoderOneByOne, self).forward(one) for one in image.split(1)]
        shallow, base, detail = (torch.cat(parts) for parts in zip(*found, strict=True))
        return shallow, base, detail


BANDED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    TransformerBlock: BandedTransformerBlock,
    DenseTransformerBlock: BandedTransformerBlock,
    LocalFeedForward: BandedFeedForward,
    Bottleneck: BandedFeedForward,
    Encoder: EncoderOneByOne,
    GraphReasoning: _banded_graph,
}
