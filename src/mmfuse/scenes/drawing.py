"""Drawing tools of the scene generators: seeds, noise, a layered canvas, a camera, flat and solid parts.

A canvas has several layers that are painted at once, so that both modalities of a pair show the same geometry: colour,
heat, emitted light, received light, and the owner of each pixel. Lengths are in metres, X to the right, Y up, Z away
from the camera; heat is a display level between 0 (clear sky) and 1 (skin at night).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
Points = NDArray[np.float64]
TILE = 512
COLOUR, HEAT, GLOW, LIGHT = slice(0, 3), 3, slice(4, 7), 7
BLACK: Colour = (0.0, 0.0, 0.0)


def image_generator(seed: int, split: int, index: int) -> np.random.Generator:
    """Return the random generator of one image; it does not depend on the number of images."""
    return np.random.default_rng(np.random.SeedSequence([seed, split, index]))


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an 8-bit PNG; the caller creates the folder and removes an incomplete dataset."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=6)


@lru_cache(maxsize=32)
def noise_tile(slope: float, low: float = 0.0, high: float = 1e9) -> Array:
    """Return a periodic noise tile of unit variance whose amplitude decreases as frequency ** -slope.

    Shape: (512, 512) float32; only frequencies between `low` and `high` cycles per tile are kept. The tile is the same
    in every run; each image uses it from a random position.
    """
    rng = np.random.default_rng(20_240_607)
    rows, columns = np.fft.fftfreq(TILE, 1 / TILE)[:, None], np.fft.rfftfreq(TILE, 1 / TILE)[None]
    frequency = np.hypot(rows, columns)
    keep = (frequency >= max(low, 1.0)) & (frequency <= high)
    gain = np.where(keep, np.maximum(frequency, 1.0) ** -slope, 0.0)
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * gain, s=(TILE, TILE))
    return np.asarray(tile / tile.std(), np.float32)


def sample(tile: Array, rows: NDArray, columns: NDArray) -> Array:
    """Sample a periodic tile at any real positions (nearest neighbour)."""
    return tile[np.asarray(rows, np.int32) & (TILE - 1), np.asarray(columns, np.int32) & (TILE - 1)]


def window(tile: Array, rng: np.random.Generator, height: int, width: int, zoom: float = 1.0) -> Array:
    """Cut a (height, width) crop from a random position of a periodic tile, magnified `zoom` times."""
    top, left = rng.integers(TILE, size=2)
    return sample(tile, top + np.arange(height)[:, None] / zoom, left + np.arange(width)[None] / zoom)


class Paint(NamedTuple):
    """Appearance of a surface: reflected colour, heat, emitted light, and the brightness of its top over its bottom."""

    colour: Colour
    heat: float
    glow: Colour = BLACK
    gradient: float = 0.0


@dataclass
class Camera:
    """A pinhole camera that looks along Z; units are canvas pixels, except `height`, in metres above the road."""

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, points: NDArray) -> Points:
        """Project (n, 3) metres to (n, 2) canvas pixels (x, y); points behind the camera are moved in front of it."""
        depth = np.maximum(points[:, 2], 1.0)
        x = self.centre + self.focal * points[:, 0] / depth
        return np.stack([x, self.horizon + self.focal * (self.height - points[:, 1]) / depth], axis=1)


@dataclass
class Canvas:
    """Layers painted together: colour (3), heat, glow (3), light, and the owner of each pixel."""

    height: int
    width: int
    layers: Array = field(init=False)
    owner: NDArray[np.int16] = field(init=False)
    labels: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = np.zeros((self.height, self.width, 8), np.float32)
        self.owner = np.zeros((self.height, self.width), np.int16)
        self.labels = [0]

    def new_owner(self, label: int) -> int:
        """Register a thing with its mask id and return its owner number."""
        self.labels.append(label)
        return len(self.labels) - 1

    def inside(self, points: Points) -> tuple[NDArray, NDArray]:
        """Return the rows and columns inside a polygon of (x, y) points."""
        return polygon(points[:, 1], points[:, 0], (self.height, self.width))

    def between(self, points: Points) -> tuple[NDArray, NDArray]:
        """Return the rows and columns inside an upright wall: two bottom corners, then the top ones reversed."""
        order = np.argsort(points[:2, 0])
        low, high = points[[0, 1]][order], points[[3, 2]][order]
        first, last = (int(v) for v in np.clip(np.ceil(low[:, 0]), 0, self.width))
        columns = np.arange(first, last)
        tops = np.clip(np.ceil(np.interp(columns, high[:, 0], high[:, 1])), 0, self.height).astype(np.int32)
        ends = np.clip(np.ceil(np.interp(columns, low[:, 0], low[:, 1])), 0, self.height).astype(np.int32)
        counts = np.maximum(ends - tops, 0)
        starts = np.cumsum(counts) - counts
        return np.arange(counts.sum()) - np.repeat(starts - tops, counts), np.repeat(columns, counts)

    def fill(self, points: Points, paint: Paint, brush: Brush) -> None:
        """Fill a polygon of (x, y) points on all layers."""
        rows, columns = self.inside(points)
        if rows.size == 0:
            return
        behind = self.layers[rows, columns, HEAT]
        value = np.array([*paint.colour, paint.heat, *paint.glow, brush.light], np.float32)
        if paint.gradient:
            top, bottom = points[:, 1].min(), points[:, 1].max()
            ramp = 1 + paint.gradient * (0.5 - (rows - top) / max(bottom - top, 1.0))
            values = np.repeat(value[None], rows.size, axis=0)
            values[:, COLOUR] *= ramp[:, None]
            self.layers[rows, columns] = values
        else:
            self.layers[rows, columns] = value
        if brush.contrast < 1.0:  # as warm as the background, except for a remainder
            self.layers[rows, columns, HEAT] = behind + brush.contrast * (paint.heat - behind)
        self.owner[rows, columns] = brush.owner

    def shadow(self, points: Points, factor: float, warmth: float = 0.0) -> None:
        """Darken a polygon and warm it, without changing the owners."""
        rows, columns = self.inside(points)
        self.layers[rows, columns, COLOUR] *= factor
        self.layers[rows, columns, HEAT] += warmth


class Brush(NamedTuple):
    """Properties shared by all parts of one thing: its owner number, the light on it, its thermal contrast."""

    owner: int = 0
    light: float = 1.0
    contrast: float = 1.0


class Spot(NamedTuple):
    """Position of a thing: X and Z in metres and its rotation about the vertical (0: faces away from the camera)."""

    x: float
    z: float
    yaw: float = 0.0

    def world(self, local: NDArray) -> Points:
        """Rotate and translate local (n, 3) points: across, up, along."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        across, along = local[:, 0], local[:, 2]
        return np.stack(
            [self.x + across * cosine + along * sine, local[:, 1], self.z - across * sine + along * cosine], axis=1
        )


def disc(x: float, y: float, radius: float, flat: float = 1.0, count: int = 16) -> Points:
    """Return an ellipse as (count, 2) points; `flat` is the ratio of its height to its width."""
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([x + radius * np.cos(angle), y + flat * radius * np.sin(angle)], axis=1)


def limb(start: Sequence[float], end: Sequence[float], thick: float, thin: float) -> Points:
    """Return a tapered stick with round ends as (10, 2) points."""
    p, q = np.asarray(start, float), np.asarray(end, float)
    turn = np.arctan2(*(q - p)[::-1])
    first, second = turn + np.linspace(np.pi / 2, 3 * np.pi / 2, 5), turn + np.linspace(-np.pi / 2, np.pi / 2, 5)
    around = [np.stack([np.cos(a), np.sin(a)], axis=1) for a in (first, second)]
    return np.concatenate([p + thick * around[0], q + thin * around[1]])


def rectangle(left: float, bottom: float, right: float, top: float) -> Points:
    """Return the four corners of an upright rectangle as (4, 2) points."""
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


@dataclass
class Painter:
    """Paints flat and solid parts of one thing on a canvas."""

    canvas: Canvas
    camera: Camera
    spot: Spot
    brush: Brush

    def flat(self, points: Points, paint: Paint) -> None:
        """Draw a part of a thing that faces the camera: (n, 2) metres to the right and up."""
        depth = np.full(len(points), self.spot.z)
        world = np.stack([self.spot.x + points[:, 0], points[:, 1], depth], axis=1)
        self.canvas.fill(self.camera.project(world), paint, self.brush)

    def side(self, points: Points, paint: Paint) -> None:
        """Draw a part in the plane along the thing's axis: (n, 2) metres along and up."""
        local = on_side(points, 0.0)
        self.canvas.fill(self.camera.project(self.spot.world(local)), paint, self.brush)

    def solid(self, faces: list[list[tuple[Points, Paint]]]) -> None:
        """Draw the faces of a roughly convex body that face the camera, far ones first, each with its details."""
        placed = [[(self.spot.world(points), paint) for points, paint in face] for face in faces]
        middles = np.array([face[0][0].mean(axis=0) for face in placed])
        body = middles.mean(axis=0)
        eye = np.array([0.0, self.camera.height, 0.0])
        for index in np.argsort(-middles[:, 2]):
            first = placed[index][0][0]
            normal = np.cross(first[1] - first[0], first[2] - first[1])
            normal *= np.sign(normal @ (middles[index] - body)) or 1.0
            if normal @ (eye - middles[index]) <= 0:
                continue
            unit = normal / (np.linalg.norm(normal) + 1e-9)
            shade = 0.78 + 0.3 * unit[1] + 0.14 * unit[0]  # the light comes from above and from the right
            for points, paint in placed[index]:
                colour = paint.colour[0] * shade, paint.colour[1] * shade, paint.colour[2] * shade
                self.canvas.fill(self.camera.project(points), paint._replace(colour=colour), self.brush)

    def ground_shadow(self, width: float, length: float, factor: float, warmth: float = 0.0) -> None:
        """Darken (and warm) the road under a thing."""
        outline = disc(0.0, 0.0, 1.0, count=20)
        local = np.stack([outline[:, 0] * width * 0.62, np.zeros(20), outline[:, 1] * length * 0.56], axis=1)
        self.canvas.shadow(self.camera.project(self.spot.world(local)), factor, warmth)


def on_side(points: Points, across: float) -> Points:
    """Move (n, 2) along-and-up points into the plane `across` metres to the right of a thing's centre."""
    return np.stack([np.full(len(points), across), points[:, 1], points[:, 0]], axis=1)


def extrude(profile: Points, width: float, body: list[Paint], side: Paint) -> list[list[tuple[Points, Paint]]]:
    """Return a body from its side view: one face for each edge of the profile, then the left and the right side."""
    faces = []
    for (l0, y0), (l1, y1), paint in zip(profile, np.roll(profile, -1, axis=0), body, strict=True):
        w = width / 2
        faces.append([(np.array([[-w, y0, l0], [w, y0, l0], [w, y1, l1], [-w, y1, l1]]), paint)])
    return [*faces, *[[(on_side(profile, w), side)] for w in (-width / 2, width / 2)]]


def on_edge(profile: Points, edge: int, width: float, box: tuple[float, float, float, float]) -> Points:
    """Return a rectangle on an extruded edge; `box` is left, low, right, high in fractions (-1..1 across, 0..1 up)."""
    (l0, y0), (l1, y1) = profile[edge], profile[(edge + 1) % len(profile)]
    left, low, right, high = box
    corners = ((left, low), (right, low), (right, high), (left, high))
    return np.array([[a * width / 2, y0 + (y1 - y0) * b, l0 + (l1 - l0) * b] for a, b in corners])
