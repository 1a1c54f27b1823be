"""Embedded road scenes: aligned infrared and visible pictures with boxes and masks, made from a seed.

Nothing here is a photograph; the scenes stand for the public road datasets (MSRS, M3FD, RoadScene) where those cannot
be fetched. They are made so that fusing pays: by night, smoke and glare the visible picture hides people and engines;
lamps, cones and parked vehicles are as cold as what lies behind them; by day most people are as warm as the street
(thermal crossover). Of ten pictures, three are by day, three by night, two in smoke and two in glare, see `CYCLE`.

Layout: `{split}/infrared/NAME.png` (grey), `{split}/visible/NAME.png` (RGB), `{split}/mask/NAME.png` (ids),
`{split}/boxes/NAME.txt` (YOLO lines: class, centre x, centre y, width, height in 0..1).

Boxes: the 6 classes of M3FD, around the visible pixels of a thing. A box is left out if less than `VISIBLE_SHARE` of
the thing's own pixels are in sight, or if its smaller side is under `MIN_SIDE` of the picture's height (8 of 192 rows).
Masks: the 9 ids of MFNet and MSRS. ASSUME: a bus and a truck are masked as car, a motorcycle as bike, a lamp and a
traffic light as unlabelled, because those sets have no id for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mmfuse.datasets import drawing
from mmfuse.datasets.drawing import (
    COLOUR,
    GLOW,
    HEAT,
    LIGHT,
    Array,
    Brush,
    Camera,
    Canvas,
    Colour,
    Paint,
    Painter,
    Spot,
)

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
MASK_IDS = ("unlabelled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
CYCLE = ("day", "night", "smoke", "day", "night", "glare", "day", "night", "smoke", "glare")
VISIBLE_SHARE = 0.4
MIN_SIDE = 1 / 24
FINE = 2  # drawn at twice the size, then reduced: antialiasing
SEEN = (slice(1, None, FINE), slice(1, None, FINE))  # the canvas pixels that masks and boxes are read from
CURVE, GUARDRAIL, BUMP = 4, 6, 8


class Weather(NamedTuple):
    """What a condition sets: heat levels of the surroundings, light of the sky, light of sun or lamps, lamps lit."""

    sky: float
    road: float
    walk: float
    wall: float
    tree: float
    ambient: Colour
    direct: Colour
    lit: float
    warm: dict[str, float]  # share of things that differ from their surroundings in infrared; 0 for all others


_RUNNING = {"person": 0.75, "car": 0.6, "bus": 0.6, "truck": 0.6, "motorcycle": 0.6}
_CROSSOVER = {"person": 0.15, "car": 0.35, "bus": 0.35, "truck": 0.35, "motorcycle": 0.3}
WEATHER = {
    "day": Weather(0.06, 0.44, 0.4, 0.42, 0.3, (0.40, 0.44, 0.50), (0.68, 0.63, 0.52), 0.0, _CROSSOVER),
    "night": Weather(0.04, 0.24, 0.21, 0.25, 0.19, (0.022, 0.027, 0.030), (0.80, 0.72, 0.50), 1.0, _RUNNING),
    "smoke": Weather(0.10, 0.30, 0.28, 0.31, 0.24, (0.52, 0.54, 0.56), (0.26, 0.25, 0.24), 0.0, _RUNNING),
    "glare": Weather(0.07, 0.33, 0.3, 0.36, 0.25, (0.28, 0.27, 0.30), (0.55, 0.43, 0.27), 0.15, _RUNNING),
}


class Kind(NamedTuple):
    """A kind of thing: class of its box, mask id, size (across, up, along), nearest and farthest place, how many."""

    box: int | None
    label: int
    extent: tuple[float, float, float]
    near: float
    far: float
    counts: tuple[int, ...]  # one is drawn by lot


KINDS = {
    "bus": Kind(2, 1, (2.5, 3.1, 9.0), 14.0, 25.0, (0, 1)),
    "truck": Kind(5, 1, (2.3, 3.0, 6.5), 11.5, 22.0, (0, 1)),
    "car": Kind(1, 1, (1.8, 1.5, 4.3), 8.5, 20.0, (1, 2, 3)),
    "lamp": Kind(3, 0, (0.8, 0.8, 0.1), 8.0, 13.5, (1, 2, 2)),
    "motorcycle": Kind(4, 3, (0.5, 1.15, 2.0), 6.5, 14.5, (0, 1, 1)),
    "person": Kind(0, 2, (0.7, 1.75, 0.3), 6.5, 14.5, (1, 2, 3, 4)),
    "cone": Kind(None, 7, (0.5, 0.8, 0.3), 5.5, 13.0, (0, 0, 2, 3)),
    "stop": Kind(None, 5, (0.9, 0.5, 0.3), 5.5, 13.0, (0, 0, 1, 2)),
}
# colours whose luminance differs from the asphalt's: what lies in daylight shall be seen in grey, too
CAR_COLOURS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.86),
    (0.70, 0.72, 0.74),
    (0.05, 0.05, 0.06),
    (0.90, 0.70, 0.15),
    (0.50, 0.68, 0.86),
    (0.42, 0.03, 0.04),
)
CLOTHES: tuple[Colour, ...] = (
    (0.95, 0.45, 0.30),
    (0.45, 0.65, 0.92),
    (0.07, 0.07, 0.08),
    (0.88, 0.86, 0.80),
    (0.50, 0.80, 0.45),
    (0.93, 0.75, 0.20),
)


class Thing(NamedTuple):
    """One placed thing."""

    kind: str
    spot: Spot
    frame: tuple[float, float, float, float]  # left, top, right, bottom on the canvas
    warm: bool
    lift: float = 0.0  # height of a lamp's head


@dataclass
class Scene:
    """What one picture is made of."""

    rng: np.random.Generator
    condition: str
    canvas: Canvas
    camera: Camera
    left: float  # kerbs
    right: float
    wall: float  # from the kerb to the buildings
    pools: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, z, radius, strength of lamp light
    things: list[Thing] = field(default_factory=list)
    open: NDArray[np.bool_] = field(init=False)  # where no building stands yet

    def __post_init__(self) -> None:
        self.open = np.ones((self.canvas.height, self.canvas.width), bool)

    @property
    def weather(self) -> Weather:
        """The levels of this scene's condition."""
        return WEATHER[self.condition]

    def light(self, x: NDArray, z: NDArray, low: NDArray | float = 0.0) -> NDArray:
        """Return the direct light at places on the ground (metres)."""
        if self.weather.lit < 1:
            return np.where(x < low, 0.12, 1.0)  # the left row of buildings throws its shadow
        total = 0.42 * np.exp(-(((z - 6) / 5) ** 2) - ((x - 0.3) / (0.16 * z + 0.5)) ** 2)  # our own head lamps
        for px, pz, radius, strength in self.pools:
            total = total + strength * np.exp(-((x - px) ** 2 + 0.5 * (z - pz) ** 2) / radius**2)
        return total


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Return the shared area of two frames over the smaller one's area."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(f[2] - f[0]) * (f[3] - f[1]) for f in (first, second)]
    return max(wide, 0.0) * max(high, 0.0) / max(min(areas), 1.0)


def _propose(scene: Scene, name: str) -> tuple[Spot, float]:
    """Draw a place (and a lamp's height) for a kind of thing."""
    rng, kind = scene.rng, KINDS[name]
    z = float(rng.uniform(kind.near**0.5, kind.far**0.5) ** 2)
    reach = 0.5 * scene.canvas.width / scene.camera.focal * z
    if name in {"car", "bus", "truck"}:
        quarter = (scene.right - scene.left) / 4
        side = rng.choice([-1, 1])
        if rng.random() < 0.22 and z > kind.near + 3:
            return Spot(float(rng.uniform(-0.6, 0.6) * reach), z, float(side * np.pi / 2 + rng.uniform(-0.4, 0.4))), 0.0
        x = (scene.left + scene.right) / 2 + side * quarter * rng.uniform(0.85, 1.4)
        return Spot(float(x), z, (0.0 if side > 0 else np.pi) + float(rng.normal(0, 0.05))), 0.0
    if name == "motorcycle":
        turn = rng.choice([-1, 1]) * (np.pi / 2 + rng.uniform(-0.6, 0.6))
        return Spot(float(rng.uniform(-0.85, 0.85) * reach), z, float(turn)), 0.0
    if name == "lamp":
        top = scene.camera.height + 0.93 * scene.camera.horizon * z / scene.camera.focal
        x = rng.choice([scene.left - 0.6, scene.right + 0.6]) if rng.random() < 0.8 else rng.uniform(-1, 1) * reach
        return Spot(float(x), z), float(min(rng.uniform(2.7, 4.6), top - 0.8))
    return Spot(float(rng.uniform(-0.93, 0.93) * reach), z), 0.0


def _frame(scene: Scene, name: str, spot: Spot, lift: float) -> tuple[float, float, float, float]:
    """Return the canvas frame around a thing's block."""
    across, up, along = KINDS[name].extent
    block = np.array([[i * across / 2, j * up + lift, k * along / 2] for i in (-1, 1) for j in (0, 1) for k in (-1, 1)])
    points = scene.camera.project(spot.world(block))
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _place(scene: Scene, name: str) -> None:
    """Add one thing: warm ones go where it is dark by night, cold ones into lamp light, nobody in front of another."""
    warm = bool(scene.rng.random() < scene.weather.warm.get(name, 0.0))
    valid: list[Thing] = []
    canvas = scene.canvas
    for _ in range(14):
        spot, lift = _propose(scene, name)
        frame = _frame(scene, name, spot, lift)
        inside = _overlap(frame, (0, 0, canvas.width, canvas.height))
        if inside < 0.93 or any(_overlap(frame, other.frame) > 0.22 for other in scene.things):
            continue
        valid.append(Thing(name, spot, frame, warm, lift))
        if len(valid) == (5 if scene.weather.lit == 1 else 1):
            break
    if not valid:
        return
    levels = [float(scene.light(np.array(t.spot.x), np.array(t.spot.z))) for t in valid]
    thing = valid[int(np.argmin(levels) if warm else np.argmax(levels))]
    scene.things.append(thing)
    if name == "lamp":
        scene.pools.append((thing.spot.x, thing.spot.z, 3.0, 0.85))
    elif not warm and max(levels) < 0.5:
        scene.pools.append((thing.spot.x, thing.spot.z, 2.2, 0.6))  # light from a window or a lamp out of the picture


def plan(rng: np.random.Generator, condition: str, height: int, width: int) -> Scene:
    """Draw the camera, the street and the things of one scene."""
    canvas = Canvas(FINE * height, FINE * width)
    camera = Camera(
        focal=1.22 * canvas.height,
        centre=canvas.width * float(rng.uniform(0.4, 0.6)),
        horizon=canvas.height * float(rng.uniform(0.40, 0.46)),
        height=float(rng.uniform(1.8, 2.2)),
    )
    middle, half = rng.uniform(-1.2, 1.2), rng.uniform(3.6, 4.6)
    scene = Scene(rng, condition, canvas, camera, middle - half, middle + half, float(rng.uniform(2.8, 4.0)))
    for name in ("lamp", *(k for k in KINDS if k != "lamp")):
        for _ in range(int(rng.choice(KINDS[name].counts))):
            _place(scene, name)
    return scene


def _sky(scene: Scene) -> None:
    """Paint the sky with clouds."""
    canvas, rng, weather = scene.canvas, scene.rng, scene.weather
    rows = int(scene.camera.horizon) + 2
    up = (1 - np.arange(rows, dtype=np.float32) / rows)[:, None]
    cloud = drawing.window(drawing.noise_tile(1.6), rng, rows, canvas.width, 2.0)
    cloud = np.clip(0.5 + 0.45 * cloud, 0, 1) * (0.35 + 0.65 * up)
    zenith, haze, white = {
        "day": ((0.30, 0.52, 0.85), (0.72, 0.82, 0.92), (0.97, 0.97, 0.98)),
        "night": ((0.008, 0.010, 0.016), (0.045, 0.042, 0.040), (0.03, 0.03, 0.034)),
        "smoke": ((0.66, 0.70, 0.75), (0.82, 0.83, 0.83), (0.9, 0.9, 0.9)),
        "glare": ((0.45, 0.52, 0.66), (0.95, 0.80, 0.58), (0.95, 0.88, 0.78)),
    }[scene.condition]
    for channel in range(3):
        base = haze[channel] + (zenith[channel] - haze[channel]) * up**0.7
        canvas.layers[:rows, :, 4 + channel] = base + (white[channel] - base) * cloud * 0.8
    canvas.layers[:rows, :, HEAT] = weather.sky + 0.10 * (1 - up) ** 2 + 0.04 * cloud


def _wall(scene: Scene, start: tuple[float, float], end: tuple[float, float], tall: float, tone: float) -> None:
    """Paint an upright facade with storeys and windows from one corner on the ground (x, z) to the other."""
    canvas, camera, rng, weather = scene.canvas, scene.camera, scene.rng, scene.weather
    corners = np.array([[p[0], y, p[1]] for p, y in ((start, 0), (end, 0), (end, tall), (start, tall))])
    rows, columns = canvas.between(camera.project(corners))
    free = scene.open[rows, columns]  # near walls are painted first
    rows, columns = rows[free], columns[free]
    scene.open[rows, columns] = False
    warm, pitch, storey = rng.uniform(-0.05, 0.1), rng.uniform(1.8, 3.2), rng.uniform(2.7, 3.3)
    night_windows = rng.random((16, 32)) < rng.uniform(0.05, 0.3)
    wide, high, offset = rng.uniform(0.2, 0.34), rng.uniform(0.2, 0.32), rng.uniform(-0.06, 0.06)
    if rows.size == 0:
        return
    dx, dz = end[0] - start[0], end[1] - start[1]
    ray = (columns - camera.centre) / camera.focal
    share = (start[0] - ray * start[1]) / np.where(np.abs(ray * dz - dx) < 1e-6, 1e-6, ray * dz - dx)
    share = np.clip(share, 0, 1).astype(np.float32)
    x, z = start[0] + share * dx, start[1] + share * dz
    y = np.asarray(camera.height - (rows - camera.horizon) * z / camera.focal, np.float32)
    along = share * np.float32(np.hypot(dx, dz))
    u, v = along / pitch, y / storey
    edge = np.maximum(np.abs(u % 1 - 0.5) - wide, np.abs(v % 1 - 0.55) - high)
    usable = (y < storey * np.floor(tall / storey + 0.1)) & (y > 0.3)
    pane, sill = (edge < 0) & usable, (edge < 0.05) & usable
    grain = drawing.sample(drawing.noise_tile(0.8), along * 24, y * 24)
    stain = drawing.sample(drawing.noise_tile(1.5), along * 6, y * 6)
    facing = 1.0 if abs(dx) > abs(dz) else (0.72 if start[0] > 0 else 0.85)
    bright = tone * facing * (1 + 0.06 * grain + 0.07 * stain) * np.where(v % 1 < 0.06, 0.8, 1.0)
    bright = np.where(sill & ~pane, bright * 1.22, bright) * np.where(y < 0.7, 0.75, 1.0)
    shine = 0.16 + 0.22 * np.clip(0.5 + 0.5 * stain, 0, 1)
    layers = np.empty((rows.size, 8), np.float32)
    for channel, tint in enumerate((1.0 + warm, 1.0, 1.0 - warm)):
        layers[:, channel] = np.where(pane, shine * (0.85, 1.0, 1.18)[channel], bright * tint)
    burning = pane & night_windows[(v.astype(int) % 16), (u.astype(int) % 32)] & (weather.lit > 0)
    layers[:, GLOW] = np.where(burning[:, None], np.array([0.95, 0.78, 0.42]) * rng.uniform(0.3, 0.8), 0)
    glass = -0.07 if weather.lit < 1 else 0.05
    sunned = 0.09 * (facing - 0.8) if weather.lit < 1 else -0.006 * np.minimum(y, 10)
    layers[:, HEAT] = weather.wall + offset + sunned + 0.02 * stain + np.where(pane, glass, np.where(sill, 0.035, 0.0))
    layers[:, LIGHT] = scene.light(x, z) * np.exp(-np.maximum(y - 1.5, 0) / 4) if weather.lit == 1 else facing - 0.15
    canvas.layers[rows, columns] = layers


def _ground(scene: Scene) -> None:
    """Paint the road with its marks, the kerbs, the pavement, a crossing and sometimes a bump."""
    canvas, camera, rng, weather = scene.canvas, scene.camera, scene.rng, scene.weather
    top = int(camera.horizon) + 1
    z = (camera.focal * camera.height / (np.arange(top, canvas.height) + 0.5 - camera.horizon)).astype(np.float32)[
        :, None
    ]
    x = ((np.arange(canvas.width, dtype=np.float32) - camera.centre) / camera.focal)[None] * z
    fade = np.minimum(1, 6 / z)
    grain = drawing.sample(drawing.noise_tile(0.45), z * 45 + np.zeros_like(x), x * 45 + 4096) * fade
    patch = drawing.sample(drawing.noise_tile(1.4), z * 9 + np.zeros_like(x), x * 16 + 4096)
    road = (x > scene.left) & (x < scene.right)
    kerb = (np.abs(x - scene.left + 0.13) < 0.13) | (np.abs(x - scene.right - 0.13) < 0.13)
    tile = ((x % 0.8 < 0.05) | (z % 0.8 < 0.05)) & ~road & (z < 16)
    bright = np.where(road, 0.31 + 0.02 * grain + 0.022 * patch, 0.43 + 0.022 * grain + 0.02 * patch)
    bright = np.where(tile, bright * 0.8, bright)
    middle, first = (scene.left + scene.right) / 2, rng.uniform(5, 11)
    marks = (np.abs(x - middle) < 0.09) & ((z + first) % 6 < 3.2)
    marks |= np.abs(np.abs(x - middle) - (scene.right - scene.left) / 2 + 0.35) < 0.08
    if rng.random() < 0.4:
        marks = np.where((z > first - 1) & (z < first + 4), False, marks) | (
            (z > first) & (z < first + 3) & ((x - middle) % 0.95 < 0.48)
        )
    marks &= road & (patch > -1.6)
    bright = np.where(marks, 0.78 + 0.04 * grain, np.where(kerb, 0.6 + 0.03 * grain, bright))
    heat = np.where(road, weather.road, weather.walk) + 0.010 * patch + 0.004 * grain
    track = np.exp(-(((np.abs(x - middle) - (scene.right - scene.left) / 4) / 1.1) ** 2))  # warmed by tyres and engines
    heat = (
        heat
        + 0.035 * track * road
        + np.where(marks, -0.035, 0.0)
        + np.where(kerb, -0.05, 0.0)
        - np.where(tile, 0.015, 0)
        - 0.06 * (z / 60).clip(0, 1)
    )
    owner = np.where(kerb & (z < 26), canvas.new_owner(CURVE), 0)
    lower = canvas.layers[top:]
    for channel, tint in enumerate((1.0, 0.99, 0.97)):
        lower[..., channel] = bright * tint
    if rng.random() < 0.35:
        at = rng.uniform(5.5, 10)
        bump = road & (z > at) & (z < at + 0.75)
        stripe = np.where((x % 1.0 < 0.5)[..., None], (0.85, 0.68, 0.1), (0.08, 0.08, 0.08))
        lower[bump, COLOUR] = stripe[bump] * (1.15 - 0.4 * ((z - at) / 0.75) + 0 * x)[bump][:, None]
        heat[bump] += 0.035
        owner[bump] = canvas.new_owner(BUMP)
    light = scene.light(x, z, low=scene.left + rng.uniform(-1.5, 1.0) + 0.5 * patch * 0.2)
    lower[..., GLOW] = 0.0
    lower[..., HEAT] = heat - (0.07 * (1 - light) if weather.lit < 1 else 0)
    lower[..., LIGHT] = light
    canvas.owner[top:] = owner


def _street(scene: Scene) -> None:
    """Paint the rows of buildings on both sides, from the near end to the far one, then far roofs at the horizon."""
    rng = scene.rng
    for side, kerb in ((-1, scene.left), (1, scene.right)):
        x, z, row = kerb + side * scene.wall, rng.uniform(5, 12), []
        while z < 65:
            deep = rng.uniform(7, 16)
            row.append((z, z + deep, rng.uniform(4.0, 13.0), rng.uniform(0.3, 0.7)))
            z += deep + (rng.uniform(2, 7) if rng.random() < 0.5 else 0)
        for near, far, tall, tone in row:
            _wall(scene, (x, near), (x, far), tall, tone)
            _wall(scene, (x, near), (x + side * 12, near), tall, tone)
    left = -60.0
    while left < 60:
        wide, tall, z = rng.uniform(5, 14), rng.uniform(3, 17), rng.uniform(75, 95)
        _wall(scene, (left, z), (left + wide, z), tall, rng.uniform(0.3, 0.6))
        left += wide + rng.exponential(4)


def _tree(scene: Scene, spot: Spot, size: float, tone: Colour) -> None:
    """Paint a tree: a trunk, and a crown whose edge and leaves are noise."""
    canvas, camera, weather = scene.canvas, scene.camera, scene.weather
    light = float(np.clip(scene.light(np.array(spot.x), np.array(spot.z)), 0, 1))
    painter = Painter(canvas, camera, spot, Brush(light=light))
    painter.ground_shadow(2.2, 1.6, 0.75)
    trunk, lean = Paint((0.22, 0.17, 0.13), weather.tree + 0.06, gradient=-0.3), size * 0.04
    painter.flat(drawing.limb((0, 0), (lean, 1.9 * size / 2), 0.13, 0.09), trunk)
    for reach in (-0.5, 0.45):
        painter.flat(drawing.limb((lean, 0.75 * size), (reach * size / 2, 1.3 * size), 0.07, 0.04), trunk)
    middle, high = camera.project(np.array([[spot.x + lean, 1.35 * size, spot.z]]))[0], camera.focal * size / spot.z
    top, bottom = (int(np.clip(middle[1] + s * 0.75 * high, 0, canvas.height)) for s in (-1, 1))
    left, right = (int(np.clip(middle[0] + s * 0.75 * high, 0, canvas.width)) for s in (-1, 1))
    if top >= bottom or left >= right:
        return
    v = ((np.arange(top, bottom) - middle[1]) / high)[:, None]
    u = ((np.arange(left, right) - middle[0]) / high)[None]
    start = scene.rng.integers(drawing.TILE, size=2)
    clumps = drawing.sample(drawing.noise_tile(1.2, 5), start[0] + v * 150 + 600, start[1] + u * 150 + 600)
    leaves = drawing.sample(drawing.noise_tile(0.3, 20), start[0] + v * 210 + 600, start[1] + u * 210 + 600)
    crown = 1 - np.hypot(u / 0.55, v / 0.52) ** 2 + 0.33 * clumps + 0.1 * leaves > 0.12
    shade = np.clip(0.72 + 0.28 * clumps - 0.5 * v + 0.16 * leaves, 0.15, 1.5)
    part = canvas.layers[top:bottom, left:right]
    part[crown, COLOUR] = shade[crown][:, None] * np.array(tone)
    part[crown, HEAT] = (weather.tree + 0.028 * clumps + 0.012 * leaves)[crown]
    part[crown, GLOW] = 0
    part[crown, LIGHT] = light if weather.lit < 1 else 0.35 * light
    canvas.owner[top:bottom, left:right][crown] = 0


def _guardrail(scene: Scene) -> None:
    """Paint a white pipe fence along one kerb."""
    rng, weather = scene.rng, scene.weather
    x = scene.left - 0.4 if rng.random() < 0.5 else scene.right + 0.4
    near = rng.uniform(5, 9)
    far = near + rng.uniform(5, 10)
    owner = scene.canvas.new_owner(GUARDRAIL)
    for z in np.arange(far, near - 0.01, -(far - near) / 6):
        light = float(scene.light(np.array(x), np.array(z)))
        painter = Painter(scene.canvas, scene.camera, Spot(x, float(z)), Brush(owner, light))
        white = Paint((0.82, 0.83, 0.82), weather.walk - 0.08, gradient=0.2)
        painter.flat(drawing.rectangle(-0.06, 0, 0.06, 0.85), white)
        for y in (0.45, 0.82):
            painter.side(drawing.rectangle(0, y - 0.06, (far - near) / 6, y + 0.06), white)


def _lamp(scene: Scene, painter: Painter, lift: float) -> None:
    """Paint a street lantern, a globe or a traffic light on its pole; only the head is boxed."""
    rng, lit = scene.rng, scene.weather.lit
    pole = Painter(painter.canvas, painter.camera, painter.spot, painter.brush._replace(owner=0))
    pole.flat(drawing.rectangle(-0.06, 0, 0.06, lift + 0.05), Paint((0.2, 0.21, 0.22), 0.3))
    glow = (2.6 * lit, 2.3 * lit, 1.6 * lit)
    style = rng.integers(3)
    if style == 0:
        painter.flat(drawing.disc(0, lift + 0.4, 0.4), Paint((0.93, 0.93, 0.9), 0.45, glow, 0.3))
    elif style == 1:
        glass = np.array([[-0.26, lift], [0.26, lift], [0.38, lift + 0.6], [-0.38, lift + 0.6]])
        painter.flat(glass, Paint((0.9, 0.88, 0.78), 0.45, glow, 0.3))
        roof = np.array([[-0.44, lift + 0.58], [0.44, lift + 0.58], [0.1, lift + 0.82], [-0.1, lift + 0.82]])
        painter.flat(roof, Paint((0.12, 0.13, 0.13), 0.4))
    else:
        painter.flat(drawing.rectangle(-0.36, lift - 0.2, 0.36, lift + 0.9), Paint((0.1, 0.11, 0.1), 0.4))
        on = rng.integers(3)
        hues: tuple[Colour, ...] = ((0.1, 1.0, 0.45), (1.0, 0.6, 0.05), (1.0, 0.08, 0.05))
        for index, hue in enumerate(hues):
            power = (0.35 + 1.3 * lit) * (index == on)
            shine = (hue[0] * power, hue[1] * power, hue[2] * power)
            dull = (0.25 * hue[0], 0.25 * hue[1], 0.25 * hue[2])
            painter.flat(drawing.disc(0, lift + 0.35 * index, 0.16), Paint(dull, 0.42, shine))


def _small(scene: Scene, painter: Painter, name: str) -> None:
    """Paint a traffic cone or a car stop."""
    if name == "cone":
        orange, white = Paint((0.95, 0.33, 0.08), 0.4, gradient=0.3), Paint((0.92, 0.92, 0.9), 0.4)
        painter.flat(drawing.rectangle(-0.25, 0, 0.25, 0.07), orange)
        painter.flat(np.array([[-0.19, 0.05], [0.19, 0.05], [0.04, 0.8], [-0.04, 0.8]]), orange)
        painter.flat(np.array([[-0.14, 0.28], [0.14, 0.28], [0.1, 0.46], [-0.1, 0.46]]), white)
        return
    grey, yellow = Paint((0.72, 0.71, 0.68), 0.4, gradient=0.3), Paint((0.85, 0.7, 0.1), 0.4)
    if scene.rng.random() < 0.5:
        block = np.array([[-0.2, 0.0], [-0.13, 0.3], [0.13, 0.3], [0.2, 0.0]])
        painter.solid(drawing.extrude(block, 0.9, [grey] * 4, grey))
        return
    for x in (-0.36, 0.36):
        painter.flat(drawing.rectangle(x - 0.07, 0, x + 0.07, 0.52), yellow)
    painter.flat(drawing.rectangle(-0.43, 0.42, 0.43, 0.56), yellow)


def _draw_thing(scene: Scene, thing: Thing, owner: int) -> None:
    """Paint one thing with its shadow, in its light and with its thermal contrast."""
    rng, weather, spot = scene.rng, scene.weather, thing.spot
    contrast = 1.0 if thing.warm else float(rng.uniform(0.02, 0.06))
    light = float(np.clip(scene.light(np.array(spot.x), np.array(spot.z)), 0, 1.1))
    painter = Painter(scene.canvas, scene.camera, spot, Brush(owner, light, contrast))
    across, _, along = KINDS[thing.kind].extent
    painter.ground_shadow(across, along, 0.5, 0.16 if thing.warm and along > 1 else 0.0)
    colour = CAR_COLOURS[rng.integers(len(CAR_COLOURS))]
    lamps = weather.lit * float(thing.warm and rng.random() < 0.5)
    if thing.kind in {"car", "bus", "truck"}:
        draw = {"car": drawing.draw_car, "bus": drawing.draw_bus, "truck": drawing.draw_truck}[thing.kind]
        draw(painter, rng, colour, weather.road, lamps)
    elif thing.kind == "motorcycle":
        drawing.draw_motorcycle(painter, colour, lamps)
    elif thing.kind == "person":
        drawing.draw_person(painter, rng, CLOTHES[rng.integers(len(CLOTHES))])
    elif thing.kind == "lamp":
        _lamp(scene, painter, thing.lift)
    else:
        _small(scene, painter, thing.kind)


def _paint(scene: Scene) -> list[tuple[int, int, int]]:
    """Paint everything, far things first; return class, owner and number of own pixels of the boxed things."""
    rng, canvas, boxed = scene.rng, scene.canvas, []
    canvas.layers[..., LIGHT] = 1.0
    _sky(scene)
    _ground(scene)
    _street(scene)
    autumn = rng.random() < 0.3
    trees = []
    for _ in range(int(rng.integers(1, 6))):
        x = rng.choice([scene.left - scene.wall + 0.7, scene.right + scene.wall - 0.7])
        hue = rng.uniform(0.8, 1.2)
        tone = (0.42 * hue, 0.30, 0.10) if autumn else (0.17 * hue, 0.33, 0.10)
        trees.append((float(rng.uniform(11, 40)), float(x), float(rng.uniform(2.6, 4.2)), tone))
    if rng.random() < 0.4:
        _guardrail(scene)
    props: list[tuple[float, Thing | tuple]] = [(t.spot.z, t) for t in scene.things] + [(t[0], t) for t in trees]
    for z, prop in sorted(props, key=lambda p: -p[0]):
        if not isinstance(prop, Thing):
            _tree(scene, Spot(prop[1], z), prop[2], prop[3])
            continue
        kind = KINDS[prop.kind]
        owner = canvas.new_owner(kind.label)
        _draw_thing(scene, prop, owner)
        if kind.box is not None:
            boxed.append((kind.box, owner, int((canvas.owner[SEEN] == owner).sum())))
    return boxed


def _reduce(layer: Array) -> Array:
    """Average blocks of `FINE` by `FINE` pixels."""
    steps = [(i, j) for i in range(FINE) for j in range(FINE)]
    return np.asarray(sum(layer[i::FINE, j::FINE] for i, j in steps) / np.float32(FINE**2), np.float32)


def _stretch(coarse: Array, length: int) -> Array:
    """Interpolate linearly along the first axis."""
    place = np.clip((np.arange(length) + 0.5) * len(coarse) / length - 0.5, 0, len(coarse) - 1)
    below = place.astype(int)
    share = (place - below).astype(np.float32)[:, None, None]
    return coarse[below] * (1 - share) + coarse[np.minimum(below + 1, len(coarse) - 1)] * share


def _bloom(light: Array, sigma: float, step: int) -> Array:
    """Blur (H, W, 3) on a coarse grid: the halo that a lens puts around what is brighter than white."""
    height, width = light.shape[:2]
    channels = [gaussian_filter(light[::step, ::step, channel], sigma / step, truncate=3) for channel in range(3)]
    tall = _stretch(np.stack(channels, axis=-1), height)
    return _stretch(tall.swapaxes(0, 1), width).swapaxes(0, 1)


def _smoke(scene: Scene, visible: Array) -> Array:
    """Put plumes before the things that only infrared shall show, and keep them off the others."""
    height, width = visible.shape[:2]
    rng, unit = scene.rng, height / 192
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    ragged = drawing.window(drawing.noise_tile(1.9, 2), rng, height, width, 1.6 * unit)
    fine = gaussian_filter(drawing.window(drawing.noise_tile(1.5, 9), rng, height, width, 1.6 * unit), 0.8 * unit)
    thick, clear = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    for thing in scene.things:
        left, top, right, bottom = (value / FINE for value in thing.frame)
        x, y, wide, high = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
        if thing.warm and rng.random() < 0.8:
            sway = 0.25 * (bottom - rows) + 6 * unit * ragged  # the plume leans and widens as it rises
            reach = 1.0 * wide + 8 * unit + 0.16 * np.maximum(bottom - rows, 0)
            fall = np.where(rows < y, (y - rows) / (1.1 * high + 34 * unit), (rows - y) / (1.15 * high + 6 * unit))
            thick += 2.6 * np.exp(-(((columns - x - sway * 0.4) / reach) ** 2) - fall**2)
        elif not thing.warm:
            gap = np.hypot((columns - x) / (wide + 9 * unit), (rows - y) / (high + 9 * unit)) + 0.2 * ragged
            clear = np.minimum(clear, np.clip(0.06 + 0.7 * (gap - 0.8), 0.06, 1))
    alpha = 1 - np.exp(-np.maximum(thick * (1 + 0.30 * ragged + 0.16 * fine), 0) * 1.7 * clear)
    tone = 0.62 + 0.07 * ragged + 0.05 * fine + 0.1 * (1 - rows / height)
    grey = tone[..., None] * np.array([1.0, 1.0, 1.02], np.float32)
    return visible + alpha[..., None] * (grey - visible)


def _glare(scene: Scene, visible: Array) -> Array:
    """Blind the camera with a low sun beside the things that only infrared shall show."""
    height, width = visible.shape[:2]
    warm = [t for t in scene.things if t.warm] or [Thing("", Spot(0, 1), (0.9 * width, 0.7 * height) * 2, True)]
    target = max(warm, key=lambda t: (t.kind == "person", t.frame[3] - t.frame[1]))
    x, y = (target.frame[0] + target.frame[2]) / 2 / FINE, 0.6 * target.frame[1] / FINE
    rows, columns = np.arange(height, dtype=np.float32)[:, None] - y, np.arange(width, dtype=np.float32)[None] - x
    radius = np.hypot(rows, columns) / height
    spokes = 1 + 0.35 * np.cos(6 * np.arctan2(rows, columns) + 0.4) ** 8
    spread = height * (0.035 + 0.10 * np.clip(rows / height, 0, 1))
    mirror = np.exp(-((columns / spread) ** 2)) * np.clip(rows / height - 0.12, 0, 0.35)  # the sun on the road
    burn = 3.2 * np.exp(-((radius / 0.16) ** 2)) + 1.5 * spokes * np.exp(-radius / 0.20) + 1.5 * mirror
    return visible * (1 - 0.35 * np.exp(-radius / 0.5))[..., None] + burn[..., None] * np.array([1.0, 0.93, 0.78])


def _see(scene: Scene) -> NDArray[np.uint8]:
    """Turn the layers into the visible picture (H, W, 3)."""
    canvas, weather, rng = scene.canvas, scene.weather, scene.rng
    layers = canvas.layers
    glow = layers[..., GLOW]
    channels = []
    for channel, (ambient, direct) in enumerate(zip(weather.ambient, weather.direct, strict=True)):
        light = np.float32(ambient) + layers[..., LIGHT] * np.float32(direct)
        channels.append(_reduce(layers[..., channel] * light + np.minimum(glow[..., channel], 2.5)))
    visible = np.stack(channels, axis=-1)
    height, width = visible.shape[:2]
    if weather.lit == 1:
        source = _reduce(np.maximum(glow - 0.6, 0))
        visible = visible + 0.9 * _bloom(source, 3.0 * height / 192, 2) + 0.9 * _bloom(source, 11 * height / 192, 4)
    if scene.condition == "smoke":
        visible = _smoke(scene, visible)
    elif scene.condition == "glare":
        visible = _glare(scene, visible)
    bright = 1 - np.exp(-1.75 * np.maximum(visible, 0)) if weather.lit else np.maximum(visible, 0) ** 0.9
    noise = rng.standard_normal((height, width, 3), np.float32)
    noise *= (0.016 if weather.lit == 1 else 0.006) + 0.012 * np.sqrt(np.clip(bright, 0, 1))
    return np.rint(np.clip(bright + noise, 0, 1) * 255).astype(np.uint8)


def _feel(scene: Scene) -> NDArray[np.uint8]:
    """Turn the heat layer into the infrared picture (H, W): soft, with the fixed pattern of a sensor."""
    rng = scene.rng
    heat = _reduce(scene.canvas.layers[..., HEAT])
    height, width = heat.shape
    heat = gaussian_filter(heat, 0.55 * height / 192)
    heat += 0.45 * (heat - gaussian_filter(heat, 2.5 * height / 192))  # thermal cameras sharpen, and overshoot
    heat = heat + 0.012 * drawing.window(drawing.noise_tile(1.8), rng, height, width, height / 96)
    stripes = gaussian_filter(rng.standard_normal(width), 0.7) * 0.008
    noise = 0.009 * rng.standard_normal((height, width), np.float32)
    heat = rng.uniform(0.92, 1.08) * heat + rng.uniform(-0.02, 0.03) + stripes[None] + noise
    return np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)


def _boxes(owners: NDArray[np.int16], boxed: list[tuple[int, int, int]]) -> list[str]:
    """Return the YOLO lines of the things that are large enough and not hidden behind others."""
    height, width = owners.shape
    lines = []
    for number, owner, own in boxed:
        rows, columns = np.nonzero(owners == owner)
        if rows.size == 0 or rows.size < VISIBLE_SHARE * own:
            continue
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        if min(bottom - top, right - left) < MIN_SIDE * height:
            continue
        centre = (left + right) / 2 / width, (top + bottom) / 2 / height
        sides = (right - left) / width, (bottom - top) / height
        lines.append(" ".join([str(number), *(f"{value:.6f}" for value in (*centre, *sides))]))
    return lines


class Sample(NamedTuple):
    """One picture pair: infrared (H, W), visible (H, W, 3), mask (H, W), all uint8, and YOLO lines."""

    infrared: NDArray[np.uint8]
    visible: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: list[str]


def render(rng: np.random.Generator, condition: str, height: int, width: int) -> Sample:
    """Make one road scene under a condition of `CYCLE`."""
    scene = plan(rng, condition, height, width)
    boxed = _paint(scene)
    owners = scene.canvas.owner[SEEN]
    mask = np.array(scene.canvas.labels, np.uint8)[owners]
    return Sample(_feel(scene), _see(scene), mask, _boxes(owners, boxed))


def generate(folder: Path, *, seed: int, height: int, width: int, train: int, val: int, test: int) -> None:
    """Write road scenes for the three splits below `folder`; the same arguments give the same bytes.

    Picture k of a split depends on the seed, the split, k and the size only. A whole set is the caller's matter:
    write into a temporary folder and rename it.
    """
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        places = [folder / split / part for part in ("infrared", "visible", "mask", "boxes")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            condition = CYCLE[index % len(CYCLE)]
            sample = render(drawing.image_generator(seed, number, index), condition, height, width)
            name = f"{condition}_{index:04d}"
            for place, pixels in zip(places, sample[:3], strict=False):
                drawing.save_png(place / f"{name}.png", pixels)
            (places[3] / f"{name}.txt").write_text("".join(f"{line}\n" for line in sample.boxes), encoding="utf-8")
