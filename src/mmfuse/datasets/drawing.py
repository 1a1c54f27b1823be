"""What the embedded scene generators draw with: seeds, noise, a layered canvas, a camera, and the things on a road.

A canvas holds several layers that are painted at once, so that both modalities of a pair show the same geometry:
colour, heat, own light, received light, and which thing owns each pixel. Lengths are metres, X to the right, Y up,
Z away from the camera; heat is a display level between 0 (clear sky) and 1 (skin at night).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
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
GLASS: Colour = (0.13, 0.17, 0.21)
TYRE: Colour = (0.05, 0.05, 0.055)
SKIN: tuple[Colour, ...] = ((0.80, 0.60, 0.48), (0.62, 0.43, 0.32), (0.42, 0.28, 0.2))


def image_generator(seed: int, split: int, index: int) -> np.random.Generator:
    """Return the random numbers of one image; they do not depend on how many others are made."""
    return np.random.default_rng(np.random.SeedSequence([seed, split, index]))


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write an 8-bit PNG; the caller makes the folder and sees to it that a broken set is not kept."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=6)


@lru_cache(maxsize=32)
def noise_tile(slope: float, low: float = 0.0, high: float = 1e9) -> Array:
    """Return a periodic noise tile of unit variance whose amplitude falls as frequency ** -slope.

    Shape: (512, 512) float32; only frequencies between `low` and `high` cycles a tile are kept. The tile is the same in
    every run: an image looks at it from its own random place.
    """
    rng = np.random.default_rng(20_240_607)
    rows, columns = np.fft.fftfreq(TILE, 1 / TILE)[:, None], np.fft.rfftfreq(TILE, 1 / TILE)[None]
    frequency = np.hypot(rows, columns)
    keep = (frequency >= max(low, 1.0)) & (frequency <= high)
    gain = np.where(keep, np.maximum(frequency, 1.0) ** -slope, 0.0)
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * gain, s=(TILE, TILE))
    return np.asarray(tile / tile.std(), np.float32)


def sample(tile: Array, rows: NDArray, columns: NDArray) -> Array:
    """Look a periodic tile up at any real positions (nearest neighbour)."""
    return tile[np.asarray(rows, np.int32) & (TILE - 1), np.asarray(columns, np.int32) & (TILE - 1)]


def window(tile: Array, rng: np.random.Generator, height: int, width: int, zoom: float = 1.0) -> Array:
    """Cut a (height, width) piece from a random place of a periodic tile, magnified `zoom` times."""
    top, left = rng.integers(TILE, size=2)
    return sample(tile, top + np.arange(height)[:, None] / zoom, left + np.arange(width)[None] / zoom)


class Paint(NamedTuple):
    """How a surface looks: reflected colour, heat, own light, and how much brighter its top is than its bottom."""

    colour: Colour
    heat: float
    glow: Colour = BLACK
    gradient: float = 0.0


@dataclass
class Camera:
    """A pinhole camera that looks along Z; all in canvas pixels but `height`, which is metres above the road."""

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, points: NDArray) -> Points:
        """Project (n, 3) metres to (n, 2) canvas pixels (x, y); points behind the camera are pulled before it."""
        depth = np.maximum(points[:, 2], 1.0)
        x = self.centre + self.focal * points[:, 0] / depth
        return np.stack([x, self.horizon + self.focal * (self.height - points[:, 1]) / depth], axis=1)


@dataclass
class Canvas:
    """Layers painted together: colour (3), heat, glow (3), light, and the owner of every pixel."""

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
        """Return the rows and columns inside an upright wall: two corners at its foot, then their tops in reverse."""
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
        if brush.contrast < 1.0:  # as warm as what lies behind, but for a remainder
            self.layers[rows, columns, HEAT] = behind + brush.contrast * (paint.heat - behind)
        self.owner[rows, columns] = brush.owner

    def shadow(self, points: Points, factor: float, warmth: float = 0.0) -> None:
        """Darken a polygon and warm it; owners stay."""
        rows, columns = self.inside(points)
        self.layers[rows, columns, COLOUR] *= factor
        self.layers[rows, columns, HEAT] += warmth


class Brush(NamedTuple):
    """What all parts of one thing share: its owner number, the light that falls on it, its thermal contrast."""

    owner: int = 0
    light: float = 1.0
    contrast: float = 1.0


class Spot(NamedTuple):
    """Where a thing stands: X and Z in metres and its turn about the vertical (0: looks away from the camera)."""

    x: float
    z: float
    yaw: float = 0.0

    def world(self, local: NDArray) -> Points:
        """Turn and move local (n, 3) points: across, up, along."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        across, along = local[:, 0], local[:, 2]
        return np.stack(
            [self.x + across * cosine + along * sine, local[:, 1], self.z - across * sine + along * cosine], axis=1
        )


def disc(x: float, y: float, radius: float, flat: float = 1.0, count: int = 16) -> Points:
    """Return an ellipse as (count, 2) points; `flat` is its height over its width."""
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
    """Puts flat and solid parts of one thing on a canvas."""

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
        """Draw a part in the plane along the thing: (n, 2) metres along and up."""
        local = _side(points, 0.0)
        self.canvas.fill(self.camera.project(self.spot.world(local)), paint, self.brush)

    def solid(self, faces: list[list[tuple[Points, Paint]]]) -> None:
        """Draw the faces of a roughly convex body that look at the camera, far ones first, each with its details."""
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


def _side(points: Points, across: float) -> Points:
    """Lift (n, 2) along-and-up points into the plane at `across`."""
    return np.stack([np.full(len(points), across), points[:, 1], points[:, 0]], axis=1)


def extrude(profile: Points, width: float, body: list[Paint], side: Paint) -> list[list[tuple[Points, Paint]]]:
    """Make a body from its side view: one face for each edge of the profile, then the left and the right side."""
    faces = []
    for (l0, y0), (l1, y1), paint in zip(profile, np.roll(profile, -1, axis=0), body, strict=True):
        w = width / 2
        faces.append([(np.array([[-w, y0, l0], [w, y0, l0], [w, y1, l1], [-w, y1, l1]]), paint)])
    return [*faces, *[[(_side(profile, w), side)] for w in (-width / 2, width / 2)]]


def on_edge(profile: Points, edge: int, width: float, box: tuple[float, float, float, float]) -> Points:
    """Return a rectangle on an extruded edge; `box` is left, low, right, high in shares (-1..1 across, 0..1 up)."""
    (l0, y0), (l1, y1) = profile[edge], profile[(edge + 1) % len(profile)]
    left, low, right, high = box
    corners = ((left, low), (right, low), (right, high), (left, high))
    return np.array([[a * width / 2, y0 + (y1 - y0) * b, l0 + (l1 - l0) * b] for a, b in corners])


def _wheels(faces: list, width: float, places: Sequence[float], radius: float, heat: float) -> None:
    """Put wheels on both sides (the last two faces) of an extruded body."""
    for face, w in zip(faces[-2:], (-width / 2 - 0.02, width / 2 + 0.02), strict=True):
        for place in places:
            face.append((_side(disc(place, radius, radius * 1.22), w), Paint((0.03, 0.03, 0.03), heat - 0.25)))
            face.append((_side(disc(place, radius, radius), w), Paint(TYRE, heat)))
            face.append((_side(disc(place, radius, radius * 0.55), w), Paint((0.45, 0.46, 0.48), heat - 0.12)))


def _lamps(painter: Painter, faces: list, profile: Points, width: float, edges: tuple[int, int], lit: float) -> None:
    """Put head lamps on the front edge and tail lamps on the rear edge of an extruded body."""
    front, rear = edges
    head, tail = (3.2 * lit, 3.0 * lit, 2.5 * lit), (1.1 * lit, 0.06 * lit, 0.04 * lit)
    for left, right in ((-0.95, -0.55), (0.55, 0.95)):
        box = (left, 0.25, right, 0.8)
        faces[front].append((on_edge(profile, front, width, box), Paint((0.85, 0.87, 0.85), 0.6, head)))
        box = (left, 0.4, right, 0.95)
        faces[rear].append((on_edge(profile, rear, width, box), Paint((0.6, 0.05, 0.05), 0.42, tail)))
    plate = Paint((0.8, 0.8, 0.72), 0.35)
    faces[rear].append((on_edge(profile, rear, width, (-0.28, 0.15, 0.28, 0.42)), plate))
    faces[front].append((on_edge(profile, front, width, (-0.5, 0.2, 0.5, 0.75)), Paint((0.08, 0.08, 0.09), 0.88)))
    painter.solid(faces)


def draw_car(painter: Painter, rng: np.random.Generator, colour: Colour, air: float, lit: float) -> None:
    """Draw a saloon, an estate or a small van; `air` is the heat of cold parts, `lit` the strength of its lamps."""
    long, tall = rng.uniform(0.95, 1.06), rng.uniform(1.0, 1.12)
    back, van = rng.choice([-1.15, -1.75, -1.95]), rng.random() < 0.2
    nose = 1.55 if van else 1.1
    outline = [[-2.1, 0.28], [-2.16, 0.8], [-2.05, 0.98], [back, 1.45], [0.25, 1.5], [nose, 0.98], [2.0, 0.8]]
    profile = np.array([*outline, [2.14, 0.62], [2.08, 0.25]]) * [long, tall * (1.15 if van else 1.0)]
    metal, glass = Paint(colour, air + 0.1, gradient=0.3), Paint(GLASS, air - 0.06, gradient=0.7)
    bonnet = Paint(colour, 0.78, gradient=0.2)
    body = [Paint(colour, 0.58, gradient=0.25), metal, glass, Paint(colour, air - 0.05), glass, bonnet, bonnet, bonnet]
    faces = extrude(profile, 1.75, [*body, Paint((0.03, 0.03, 0.03), 0.7)], Paint(colour, air + 0.14, gradient=0.55))
    top = 0.9 * profile[3, 1] + 0.1 * profile[2, 1]
    base = profile[2, 1] + 0.03
    post = 0.5 * (back * long + nose * long) - 0.15
    for face, w in zip(faces[-2:], (-0.885, 0.885), strict=True):
        for rear, front, lean in ((back * long - 0.3, post - 0.06, 0.35), (post + 0.06, nose * long - 0.12, -0.7)):
            a, b = max(rear, -1.9), front
            pane = [[a, base], [b, base], [b + min(lean, 0), top], [a + max(lean, 0), top]]
            face.append((_side(np.array(pane), w), Paint(GLASS, air + 0.02, gradient=0.6)))
        face.append((_side(rectangle(-1.95, 0.24, 1.95, 0.36), w), Paint((0.05, 0.05, 0.05), 0.5)))
    _wheels(faces, 1.75, (-1.32 * long, 1.3 * long), 0.33, 0.82)
    exhaust = on_edge(profile, 0, 1.75, (-0.7, -0.05, -0.3, 0.3))
    faces[0].append((on_edge(profile, 0, 1.75, (-0.95, -0.5, -0.65, 0.05)), Paint(TYRE, 0.8)))
    faces[0].append((on_edge(profile, 0, 1.75, (0.65, -0.5, 0.95, 0.05)), Paint(TYRE, 0.8)))
    faces[0].append((exhaust, Paint((0.1, 0.1, 0.1), 0.95)))
    _lamps(painter, faces, profile, 1.75, (6, 0), lit)


def draw_bus(painter: Painter, rng: np.random.Generator, colour: Colour, air: float, lit: float) -> None:
    """Draw a city bus with a row of windows, a door, a windscreen and a destination board."""
    length = rng.uniform(8.0, 10.5)
    l0, l1 = -length / 2, length / 2
    profile = np.array([[l0, 0.35], [l0 - 0.03, 1.1], [l0 + 0.06, 3.1], [l1 - 0.1, 3.1], [l1, 1.1], [l1 - 0.03, 0.35]])
    white = (0.86, 0.86, 0.82)
    metal = Paint(white, air + 0.12, gradient=0.15)
    body = [Paint(colour, 0.9), metal, Paint(white, air - 0.06), metal, Paint(colour, 0.66), Paint(TYRE, 0.6)]
    faces = extrude(profile, 2.5, body, metal)
    inside = tuple(0.5 * lit * c for c in (0.9, 0.85, 0.6))
    pane = Paint(GLASS, air + 0.2, (inside[0], inside[1], inside[2]), 0.5)
    for edge, low in ((1, 0.3), (3, 0.12)):
        bottom, top = (low, 0.72) if edge == 1 else (1 - 0.75, 1 - low)
        faces[edge].append((on_edge(profile, edge, 2.5, (-0.88, bottom, 0.88, top)), pane))
        board = (-0.6, 0.8, 0.6, 0.93) if edge == 1 else (-0.6, 0.06, 0.6, 0.2)
        amber = Paint((0.12, 0.09, 0.04), air + 0.1, (0.9 * lit, 0.5 * lit, 0.08 * lit))
        faces[edge].append((on_edge(profile, edge, 2.5, board), amber))
    for face, w in zip(faces[-2:], (-1.26, 1.26), strict=True):
        face.append((_side(rectangle(l0, 0.36, l1, 1.05), w), Paint(colour, air + 0.16)))
        edges = np.linspace(l0 + 0.3, l1 - 0.4, 8)
        for index, (a, b) in enumerate(pairwise(edges)):
            face.append((_side(rectangle(a + 0.07, 0.5 if index == 5 else 1.5, b - 0.07, 2.6), w), pane))
    _wheels(faces, 2.5, (l0 + 1.9, l1 - 2.2), 0.48, 0.85)
    _lamps(painter, faces, profile, 2.5, (4, 0), lit)


def draw_truck(painter: Painter, rng: np.random.Generator, colour: Colour, air: float, lit: float) -> None:
    """Draw a lorry: a cargo box on a chassis and a cab in another colour."""
    length, tall = rng.uniform(4.2, 5.4), rng.uniform(2.7, 3.2)
    l0, l1 = -length / 2 - 0.8, length / 2 - 0.8
    grey = rng.uniform(0.68, 0.88)
    box = np.array([[l0, 0.5], [l0, 0.95], [l0, tall], [l1, tall], [l1, 0.95], [l1, 0.5]])
    cargo, under = Paint((grey, grey, grey * 0.97), air + 0.07, gradient=0.15), Paint((0.07, 0.07, 0.07), 0.8)
    faces = extrude(box, 2.3, [under, cargo, cargo, cargo, under, under], cargo)
    for face, w in zip(faces[-2:], (-1.16, 1.16), strict=True):
        face.append((_side(rectangle(l0, 0.5, l1, 0.92), w), under))
        for rib in np.linspace(l0, l1, 7)[1:-1]:
            face.append((_side(rectangle(rib - 0.03, 1.0, rib + 0.03, tall - 0.05), w), cargo._replace(gradient=-0.5)))
    _wheels(faces, 2.3, (l0 + 0.9,), 0.45, 0.85)
    for left, right in ((-0.93, -0.05), (0.05, 0.93)):
        door = cargo._replace(colour=(grey * 0.86, grey * 0.86, grey * 0.85))
        faces[1].append((on_edge(box, 1, 2.3, (left, 0.04, right, 0.94)), door))
    c1 = l1 + 1.75
    cab = np.array([[l1 + 0.1, 0.4], [l1 + 0.1, 2.35], [c1 - 0.35, 2.4], [c1, 1.35], [c1 + 0.04, 0.4]])
    paint = Paint(colour, air + 0.16, gradient=0.25)
    parts = extrude(cab, 2.1, [paint, paint, Paint(GLASS, air, gradient=0.6), Paint(colour, 0.85), under], paint)
    for face, w in zip(parts[-2:], (-1.06, 1.06), strict=True):
        pane = np.array([[l1 + 0.55, 1.4], [c1 - 0.15, 1.4], [c1 - 0.45, 2.2], [l1 + 0.55, 2.2]])
        face.append((_side(pane, w), Paint(GLASS, air, gradient=0.6)))
    _wheels(parts, 2.1, (l1 + 0.95,), 0.45, 0.88)
    away = np.cos(painter.spot.yaw) > 0
    if away:
        _lamps(painter, parts, cab, 2.1, (3, 0), lit)
        _lamps(painter, faces, box, 2.3, (4, 0), lit)
    else:
        _lamps(painter, faces, box, 2.3, (4, 0), lit)
        _lamps(painter, parts, cab, 2.1, (3, 0), lit)


def draw_motorcycle(painter: Painter, colour: Colour, lit: float) -> None:
    """Draw a motorcycle from its side."""
    for place in (-0.7, 0.72):
        painter.side(disc(place, 0.32, 0.34, count=20), Paint(TYRE, 0.62))
        painter.side(disc(place, 0.32, 0.2), Paint((0.5, 0.5, 0.52), 0.5))
    dark, hot = Paint((0.1, 0.1, 0.11), 0.6), Paint((0.4, 0.4, 0.42), 1.0)
    painter.side(np.array([[-0.35, 0.3], [0.4, 0.28], [0.45, 0.62], [-0.3, 0.65]]), hot)
    painter.side(limb((0.1, 0.3), (-0.85, 0.38), 0.06, 0.09), hot)
    painter.side(limb((0.72, 0.32), (0.48, 1.0), 0.05, 0.06), dark)
    painter.side(limb((-0.95, 0.85), (0.0, 0.78), 0.09, 0.1), dark)
    tank = np.array([[-0.1, 0.68], [0.5, 0.66], [0.55, 0.88], [0.3, 1.0], [0.0, 0.9]])
    painter.side(tank, Paint(colour, 0.75, gradient=0.5))
    painter.side(np.array([[0.45, 0.6], [0.85, 0.8], [0.6, 1.12], [0.42, 0.9]]), Paint(colour, 0.55, gradient=0.4))
    painter.side(limb((-1.0, 0.7), (-0.6, 0.72), 0.05, 0.1), Paint(colour, 0.5))
    painter.side(limb((0.42, 1.02), (0.25, 1.12), 0.035, 0.03), dark)
    painter.side(disc(0.78, 0.88, 0.1), Paint((0.9, 0.9, 0.85), 0.5, (2.4 * lit, 2.3 * lit, 1.9 * lit)))
    painter.side(disc(-1.02, 0.76, 0.06), Paint((0.7, 0.05, 0.05), 0.45, (0.9 * lit, 0.0, 0.0)))


def draw_person(painter: Painter, rng: np.random.Generator, colour: Colour) -> None:
    """Draw somebody who walks or stands, with a pose of their own."""
    size, stride, swing = rng.uniform(0.92, 1.08), rng.uniform(-0.3, 0.3), rng.uniform(-0.25, 0.25)
    skin = SKIN[rng.integers(len(SKIN))]
    trousers: Colour = ((0.08, 0.10, 0.20), (0.06, 0.06, 0.06), (0.62, 0.56, 0.45))[rng.integers(3)]
    cloth, legs, warm = Paint(colour, 0.7, gradient=0.3), Paint(trousers, 0.62), Paint(skin, 0.97)
    parts = [
        (limb((0.2, 1.36), (0.27 + swing / 3, 0.95), 0.075, 0.06), cloth._replace(gradient=-0.3)),
        (disc(0.27 + swing / 3, 0.9, 0.065), warm),
        (limb((-0.09, 0.88), (-0.1 - stride, 0.12), 0.125, 0.075), legs),
        (limb((0.09, 0.88), (0.1 + stride, 0.12), 0.125, 0.075), legs._replace(gradient=0.25)),
        (limb((-0.1 - stride, 0.06), (-0.02 - stride, 0.05), 0.06, 0.05), Paint((0.06, 0.05, 0.05), 0.5)),
        (limb((0.1 + stride, 0.06), (0.18 + stride, 0.05), 0.06, 0.05), Paint((0.06, 0.05, 0.05), 0.5)),
        (np.array([[-0.25, 1.4], [-0.1, 1.5], [0.1, 1.5], [0.25, 1.4], [0.19, 0.84], [-0.19, 0.84]]), cloth),
        (limb((-0.23, 1.36), (-0.29 - swing / 3, 0.95), 0.08, 0.06), cloth),
        (disc(-0.29 - swing / 3, 0.9, 0.065), warm),
        (limb((0, 1.48), (0, 1.58), 0.07, 0.07), warm),
        (disc(0, 1.67, 0.125, 1.2), warm),
        (np.array([[-0.14, 1.68], [-0.12, 1.8], [0, 1.84], [0.12, 1.8], [0.14, 1.68], [0, 1.75]]), None),
    ]
    for points, paint in parts:
        painter.flat(points * size, paint or Paint((0.09, 0.07, 0.05), 0.76))
    if rng.random() < 0.3:
        bag = np.array([[0.12, 0.75], [0.4, 0.75], [0.38, 1.1], [0.14, 1.1]]) * size
        painter.flat(bag, Paint((colour[2], colour[0] * 0.6, colour[1] * 0.5), 0.5))
