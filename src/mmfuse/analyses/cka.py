"""Centred kernel alignment between all layers of MMA-UNet's two encoders, as in the paper's Figures 1, 3 and 4.

Source: MMA-UNet 1 (Figure 1), 3.3 (Figure 3) and 3.4 (Figure 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.analyses.base import AnalysisCard, Drawing
from mmfuse.data.images import Bytes, from_png_text, luminance, png_text, resize
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.nn.cka import SMALLEST_BATCH, Alignment, Array, best_pairing, centred_gram, change_point
from mmfuse.progress import progress
from mmfuse.study.plan import System
from mmfuse.training.seeding import derived_seed
from mmfuse.words import number_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARD = AnalysisCard(
    title="Similarity of the encoders' layers (CKA)",
    source="MMA-UNet 1, 3.3 and 3.4, Figures 1, 3 and 4; CKA after Nguyen et al. 2021",
    words="Linear CKA from the unbiased minibatch estimate of HSIC, between all intermediate representations of both "
    "encoders on test images resized to one size. The onset of deep semantics is the first layer of the second block "
    "if the layers are cut in two so that the similarity matrix is nearest to a matrix with one value within the "
    "blocks and one between them. Intervals: 95 % of the Bayesian bootstrap over minibatches of images; for several "
    "seeds, of all seeds' resamples together.",
    methods=("mma_unet",),
)
OPERATIONS = ("conv1", "norm1", "relu1", "conv2", "norm2", "relu2")
LEVELS = 5
PAIRS = 4  # PAPER: 3.2, four fused levels
SUMS = ((1, 1), (1, 2), (2, 2), (2, 3))  # PAPER: Figure 3, added levels (visible, infrared)
DIGITS = 5  # of a stored similarity; further ones depend on the number of CPU threads


def layer_names() -> list[str]:
    """Return the names of an encoder's distinct representations, from the first convolution to the fifth level."""
    return [
        f"{level}.{name}"
        for level in range(1, LEVELS + 1)
        for name in (*(("pool",) if level > 1 else ()), *OPERATIONS, "out")
    ]


def paper_counts() -> list[int]:
    """Return the number of the paper's layers that each distinct representation stands for: 51 in all.

    PAPER: 1, "the first convolution block contains 7 layers of feature intermediate representation, and the second to
    fifth convolution blocks contain 11".
    ASSUME: it does not say which. Six operations and the block's output make 7; pooling, six operations, and the output
    once more for each module of the usual UNet code that wraps them (two around the convolutions, one around pooling
    and convolutions, and the block) make 11. The output of a block is what it passes on: the guided features.
    """
    return [4 if name.endswith("relu2") and not name.startswith("1.") else 1 for name in layer_names()]


def analyse(
    network: Any,
    pack: Pack,
    *,
    images: int | None,
    height: int,
    width: int,
    batch: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return CKA of all layers, the onsets of deep semantics, the most similar levels, and feature maps of one pair.

    Args:
        network: A trained MMA-UNet in eval mode.
        pack: The test pairs.
        images: Maximum number of pairs, drawn at random; None means all.
        height: Height after resizing, a multiple of 16.
        width: Width after resizing, likewise.
        batch: Images in a minibatch, at least 4; remaining images are distributed, so some minibatches are larger.
        resamples: Number of bootstrap resamples.
        seed: Seed of the order of images and of the bootstrap.

    Raises:
        UserError: the sides are not divisible by 16, or there are fewer than four images.
    """
    order = np.random.default_rng(derived_seed(seed, 0)).permutation(len(pack))[:images]
    if batch < SMALLEST_BATCH or len(order) < SMALLEST_BATCH or height % 16 or width % 16:
        raise UserError(
            "CKA cannot be computed with these options.",
            expected=f"{SMALLEST_BATCH} images or more in total and per minibatch; height and width divisible by 16",
            found=f"{number_of(len(order), 'image')}, batch {batch}, {height} x {width} pixels",
            fix="correct analyse.cka.options in params.yaml",
        )
    names = layer_names()
    alignment = Alignment(2 * len(names), resamples, derived_seed(seed, 1))
    batches = np.array_split(order, max(1, len(order) // batch))
    for numbers in progress(batches, "compare layers", unit="batches"):
        alignment.add([gram for trace in traces(network, _pairs(pack, numbers, height, width)) for gram in trace])
    first = int(min(order))
    return {
        "images": len(order),
        "batches": len(batches),
        "layers": names,
        **_findings(alignment, len(names)),
        "guided": network.ir_unet.encoder.guides is not None,
        "maps": {"name": pack.names[first], "pictures": _maps(network, _pairs(pack, [first], height, width))},
    }


def _pairs(pack: Pack, numbers: Any, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return pairs at one size, (n, 1, height, width) in [0, 1] twice."""
    chosen = [pack[int(number)] for number in numbers]
    a, b = (
        torch.from_numpy(np.stack([resize(luminance(sample[key]), height, width) for sample in chosen]))
        for key in ("a", "b")
    )
    return a[:, None].float() / 255, b[:, None].float() / 255


@torch.no_grad()
def _features(network: Any, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the five levels of the visible and of the infrared encoder."""
    device = next(network.parameters()).device
    repeat = (-1, network.channels, -1, -1)
    visible = network.vi_unet.encoder(b.to(device).expand(repeat))
    return visible, network.ir_unet.encoder(a.to(device).expand(repeat), visible)


def traces(network: Any, pair: tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the centred Gram matrix (n, n) of each layer, for the visible and for the infrared encoder.

    Shape: two images (n, 1, H, W), infrared and visible; the matrices in the order of `layer_names`.
    """
    grams: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    hooks = []

    def keep(store: dict[str, Tensor], name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        store[name] = centred_gram(output)  # immediately, because the next operation may overwrite it

    def keep_input(store: dict[str, Tensor], name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        store[name] = centred_gram(inputs[0])

    for store, encoder in zip(grams, (network.vi_unet.encoder, network.ir_unet.encoder), strict=True):
        for level, block in enumerate(encoder.blocks, start=1):
            hooks.append(block.register_forward_pre_hook(partial(keep_input, store, f"{level}.pool")))
            for name, module in zip(OPERATIONS, block, strict=True):
                hooks.append(module.register_forward_hook(partial(keep, store, f"{level}.{name}")))
    try:
        features = _features(network, *pair)
    finally:
        for hook in hooks:
            hook.remove()
    for store, levels in zip(grams, features, strict=True):
        store |= {f"{level}.out": centred_gram(output) for level, output in enumerate(levels, start=1)}
    visible, infrared = ([store[name] for name in layer_names()] for store in grams)
    return visible, infrared


def _findings(alignment: Alignment, layers: int) -> dict[str, Any]:
    """Return the matrices and the results derived from them."""
    matrix, resampled = alignment.matrix(), alignment.resamples()
    own = {"visible": slice(0, layers), "infrared": slice(layers, None)}
    across = (own["visible"], own["infrared"])
    outs = [number for number, name in enumerate(layer_names()) if name.endswith(".out")]
    repeats = np.repeat(np.arange(layers), paper_counts())

    def onset(similarity: Array) -> tuple[int, float]:
        cut, contrast = change_point(similarity[np.ix_(repeats, repeats)])
        return cut + 1, contrast  # the paper counts layers from 1

    found: dict[str, Any] = {}
    for name, part in own.items():
        layer, contrast = onset(matrix[part, part])
        again = [onset(one[part, part])[0] for one in resampled]
        found[name] = {"layer": layer, "name": layer_names()[repeats[layer - 1]], "contrast": round(contrast, DIGITS)}
        found[name] |= {"resampled": again}
    levels = matrix[across][np.ix_(outs, outs)]
    pairing = best_pairing(levels, PAIRS)
    chosen = Counter(str(best_pairing(one[across][np.ix_(outs, outs)], PAIRS)) for one in resampled)
    return {
        "visible": np.round(matrix[own["visible"], own["visible"]], DIGITS).tolist(),
        "infrared": np.round(matrix[own["infrared"], own["infrared"]], DIGITS).tolist(),
        "across": np.round(matrix[across], DIGITS).tolist(),
        "onset": found,
        "levels": np.round(levels, DIGITS).tolist(),
        "pairing": pairing,
        "pairing_share": chosen[str(pairing)] / max(1, len(resampled)),
        "summary": {f"onset/{name}": one["layer"] for name, one in found.items()},
    }


def _maps(network: Any, pair: tuple[Tensor, Tensor]) -> dict[str, str]:
    """Return the feature maps of Figure 3 as base64 PNG: channel means, each stretched to the full range."""
    visible, infrared = _features(network, *pair)
    means = {f"VI{level}": visible[level - 1].mean(dim=1, keepdim=True) for level in (1, 2)}
    means |= {f"IR{level}": infrared[level - 1].mean(dim=1, keepdim=True) for level in (1, 2, 3)}
    for v, i in SUMS:
        # PAPER: Figure 3 omits the sampling; 3.2 downsamples the visible features to the infrared ones
        means[f"VI{v}+IR{i}"] = F.avg_pool2d(means[f"VI{v}"], 2 ** (i - v)) + means[f"IR{i}"]
    return {name: png_text(_stretched(mean[0, 0].cpu().double().numpy())) for name, mean in means.items()}


def _stretched(values: Array) -> Bytes:
    return np.rint((values - values.min()) / (float(np.ptp(values)) or 1.0) * 255).astype(np.uint8)


def draw(results: Mapping[System, dict[str, Any]]) -> list[Drawing]:
    """Return Figure 1 for each variant, Figure 4 for all of them, and Figure 3 for the first one."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for system, result in results.items():
        variants.setdefault(f"{system.method}.{system.variant}", []).append(result)
    drawings = [
        Drawing(f"{name}: layer by layer", _onset_words(found), 10.4, 3.6, partial(_figure_1, found[0]))
        for name, found in variants.items()
    ]
    if len(variants) > 1:
        words = "; ".join(
            f"{name} ({'with' if found[0]['guided'] else 'without'} guidance): {_onset(found, 'infrared')}"
            for name, found in variants.items()
        )
        words = f"IR-UNet of each system with itself. The line is the onset of deep semantics: {words}."
        shown = {name: found[0] for name, found in variants.items()}
        paint = partial(_figure_4, shown)
        drawings.append(Drawing("IR-UNet with and without guidance", words, 1 + 3.1 * len(shown), 3.6, paint))
    name, found = next(iter(variants.items()))
    maps = found[0]["maps"]
    words = f"Channel means of levels and of sums of levels of {name} on {maps['name']}, each stretched to "
    words += "the full range. VI1+IR1 and VI2+IR2 are symmetric sums, VI1+IR2 and VI2+IR3 asymmetric ones."
    return [*drawings, Drawing("Feature maps", words, 10.4, 4.6, partial(_figure_3, maps["pictures"]))]


def onset_interval(found: list[dict[str, Any]], *encoders: str) -> tuple[float, float] | None:
    """Return the 95 % interval of the onset over all seeds' resamples; for two encoders, of second minus first.

    None if there is only one minibatch, which cannot be resampled.
    """
    draws = [np.array([result["onset"][name]["resampled"] for name in encoders]) for result in found]
    values = np.concatenate([draw[-1] - (draw[0] if len(encoders) > 1 else 0) for draw in draws])
    if not values.size or any(result["batches"] < 2 for result in found):
        return None
    low, high = np.percentile(values, [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)


def _interval(found: list[dict[str, Any]], *encoders: str) -> str:
    interval = onset_interval(found, *encoders)
    return "[no interval]" if interval is None else f"[{interval[0]:g}, {interval[1]:g}]"


def _onset(found: list[dict[str, Any]], name: str) -> str:
    layers = ", ".join(str(result["onset"][name]["layer"]) for result in found)
    contrasts = ", ".join(f"{result['onset'][name]['contrast']:.2f}" for result in found)
    return f"layer {layers} {_interval(found, name)}, contrast {contrasts}"


def _onset_words(found: list[dict[str, Any]]) -> str:
    first = found[0]
    shifts = [result["onset"]["infrared"]["layer"] - result["onset"]["visible"]["layer"] for result in found]
    pairs = ", ".join(f"{v}-{i}" for v, i in first["pairing"])
    again = f", in {100 * first['pairing_share']:.0f} % of the resamples" if first["batches"] > 1 else ""
    shift = f"{', '.join(map(str, shifts))} {_interval(found, 'visible', 'infrared')}"
    return (
        f"{number_of(first['images'], 'image')}, minibatches: {first['batches']}. "
        "Dashed lines: onsets of deep semantics in the "
        "paper's count of 51 layers. One number per seed, 95 % in brackets; contrast: mean similarity within minus "
        f"between the two blocks. VI-UNet: {_onset(found, 'visible')}; IR-UNet: {_onset(found, 'infrared')}; "
        f"IR-UNet minus VI-UNet: {shift}. Most similar levels (visible-infrared), in order: {pairs}{again}."
    )


def _heat_map(axes: Axes, matrix: Any, rows: int | None, columns: int | None) -> Any:
    """Draw a similarity matrix over the paper's layers, with the onsets as dashed lines."""
    counts = paper_counts()
    full = np.repeat(np.repeat(np.array(matrix), counts, axis=0), counts, axis=1)
    edges = (0.5, len(full) + 0.5)
    image = axes.imshow(full, vmin=0, vmax=1, cmap="magma", origin="lower", extent=(*edges, *edges))
    for position, line in ((rows, axes.axhline), (columns, axes.axvline)):
        if position is not None:
            line(position - 0.5, color="#56B4E9", linewidth=1.2, linestyle="--")
    axes.grid(visible=False)
    return image


def _figure_1(result: Mapping[str, Any], figure: Figure) -> None:
    onset = {name: found["layer"] for name, found in result["onset"].items()}
    axes = figure.subplots(1, 3)
    image: Any = None
    panels = (("infrared", "IR", "IR"), ("visible", "VI", "VI"), ("across", "VI", "IR"))
    for one, (key, down, right) in zip(axes, panels, strict=True):
        lines = {"VI": onset["visible"], "IR": onset["infrared"]}
        image = _heat_map(one, result[key], lines[down], lines[right])
        one.set(title=f"{right}-UNet and {down}-UNet", xlabel=f"{right}-UNet layer", ylabel=f"{down}-UNet layer")
    figure.colorbar(image, ax=list(axes), label="CKA")


def _figure_4(shown: Mapping[str, dict[str, Any]], figure: Figure) -> None:
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    image: Any = None
    for one, (name, result) in zip(axes, shown.items(), strict=True):
        onset = result["onset"]["infrared"]["layer"]
        image = _heat_map(one, result["infrared"], onset, onset)
        one.set(title=name.partition(".")[2], xlabel="IR-UNet layer")
    axes[0].set_ylabel("IR-UNet layer")
    figure.colorbar(image, ax=list(axes), label="CKA")


def _figure_3(pictures: Mapping[str, str], figure: Figure) -> None:

    names = ("VI1", "IR1", "VI1+IR1", "IR2", "VI1+IR2", "VI2", "IR2", "VI2+IR2", "IR3", "VI2+IR3")
    for axes, name in zip(figure.subplots(2, 5).flat, names, strict=True):
        axes.imshow(from_png_text(pictures[name]), cmap="gray", aspect="auto")
        axes.set(title=name)
        axes.set_axis_off()
