"""Contents of a drawn road scene: weather, street, kinds of things, and the position of each thing.

Positions are chosen so that fusion is useful: at night, warm things are in the dark and cold things in lamp light, and
no thing hides much of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.scenes.drawing import Camera, Canvas, Colour, Spot

FINE = 2  # drawn at twice the size, then reduced, for antialiasing
CURVE, GUARDRAIL, BUMP = 4, 6, 8  # mask ids of parts of the street, which are not placed


class Weather(NamedTuple):
    """Settings of a condition: heat levels of the surroundings, light of the sky, light of sun or lamps, lamps lit."""

    sky: float
    road: float
    walk: float
    wall: float
    tree: float
    ambient: Colour
    direct: Colour
    lit: float
    warm: dict[str, float]  # share of things that differ from the background in infrared; 0 for kinds not listed


_RUNNING = {"person": 0.75, "car": 0.6, "bus": 0.6, "truck": 0.6, "motorcycle": 0.6}
_CROSSOVER = {"person": 0.15, "car": 0.35, "bus": 0.35, "truck": 0.35, "motorcycle": 0.3}
WEATHER = {
    "day": Weather(0.06, 0.44, 0.4, 0.42, 0.3, (0.40, 0.44, 0.50), (0.68, 0.63, 0.52), 0.0, _CROSSOVER),
    "night": Weather(0.04, 0.24, 0.21, 0.25, 0.19, (0.022, 0.027, 0.030), (0.80, 0.72, 0.50), 1.0, _RUNNING),
    "smoke": Weather(0.10, 0.30, 0.28, 0.31, 0.24, (0.52, 0.54, 0.56), (0.26, 0.25, 0.24), 0.0, _RUNNING),
    "glare": Weather(0.07, 0.33, 0.3, 0.36, 0.25, (0.28, 0.27, 0.30), (0.55, 0.43, 0.27), 0.15, _RUNNING),
}


class Kind(NamedTuple):
    """A kind of thing: class of its box, mask id, size (across, up, along), nearest and farthest position, number.

    The classes and ids are indices into `CLASSES` and `MASK_IDS` of `synthetic_road`.
    """

    box: int | None
    label: int
    extent: tuple[float, float, float]
    near: float
    far: float
    counts: tuple[int, ...]  # one is drawn at random


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


class Thing(NamedTuple):
    """One placed thing."""

    kind: str
    spot: Spot
    frame: tuple[float, float, float, float]  # left, top, right, bottom on the canvas
    warm: bool
    lift: float = 0.0  # height of a lamp's head


@dataclass
class Scene:
    """Contents of one image."""

    rng: np.random.Generator
    condition: str
    canvas: Canvas
    camera: Camera
    left: float  # kerbs
    right: float
    wall: float  # from the kerb to the buildings
    pools: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, z, radius, strength of lamp light
    things: list[Thing] = field(default_factory=list)
    open: NDArray[np.bool_] = field(init=False)  # pixels without a building

    def __post_init__(self) -> None:
        self.open = np.ones((self.canvas.height, self.canvas.width), bool)

    @property
    def weather(self) -> Weather:
        """The levels of this scene's condition."""
        return WEATHER[self.condition]

    def light(self, x: NDArray, z: NDArray, low: NDArray | float = 0.0) -> NDArray:
        """Return the direct light at positions on the ground (metres)."""
        if self.weather.lit < 1:
            return np.where(x < low, 0.12, 1.0)  # the left row of buildings casts a shadow
        total = 0.42 * np.exp(-(((z - 6) / 5) ** 2) - ((x - 0.3) / (0.16 * z + 0.5)) ** 2)  # our own head lamps
        for px, pz, radius, strength in self.pools:
            total = total + strength * np.exp(-((x - px) ** 2 + 0.5 * (z - pz) ** 2) / radius**2)
        return total


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Return the intersection of two frames divided by the smaller one's area."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(f[2] - f[0]) * (f[3] - f[1]) for f in (first, second)]
    return max(wide, 0.0) * max(high, 0.0) / max(min(areas), 1.0)


def _propose(scene: Scene, name: str) -> tuple[Spot, float]:
    """Draw a random position (and a lamp's height) for a kind of thing."""
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
    """Return the frame on the canvas around a thing's bounding block."""
    across, up, along = KINDS[name].extent
    block = np.array([[i * across / 2, j * up + lift, k * along / 2] for i in (-1, 1) for j in (0, 1) for k in (-1, 1)])
    points = scene.camera.project(spot.world(block))
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _place(scene: Scene, name: str) -> None:
    """Add one thing: at night, warm ones in the dark and cold ones in lamp light, never in front of another."""
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
        scene.pools.append((thing.spot.x, thing.spot.z, 2.2, 0.6))  # light of a window or of a lamp outside the image


def plan(rng: np.random.Generator, condition: str, height: int, width: int) -> Scene:
    """Randomly choose the camera, the street and the things of one scene under a condition of `WEATHER`."""
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
