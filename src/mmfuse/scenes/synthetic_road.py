"""Synthetic road scenes: aligned infrared and visible images with boxes and masks, made from a seed.

No photographs are used; the scenes replace the public road datasets (MSRS, M3FD, RoadScene) where those cannot be
downloaded. Fusion is useful by design: night, smoke and glare hide people and engines in the visible image; lamps,
cones and parked vehicles are as cold as their background; by day, most people are as warm as the street (thermal
crossover). Of ten images, three are by day, three at night, two in smoke and two in glare, see `CYCLE`.

Layout: `{split}/infrared/NAME.png` (grey), `{split}/visible/NAME.png` (RGB), `{split}/mask/NAME.png` (ids),
`{split}/boxes/NAME.txt` (YOLO lines: class, centre x, centre y, width, height in 0..1).

Boxes: the 6 classes of M3FD, around the visible pixels of a thing. A box is omitted if less than `VISIBLE_SHARE` of
the thing's own pixels are visible, or if its smaller side is less than `MIN_SIDE` of the image height (8 of 192 rows).
Masks: the 9 ids of MFNet and MSRS. ASSUME: a bus and a truck are masked as car, a motorcycle as bike, a lamp and a
traffic light as unlabelled, because those datasets have no id for them.

This module paints the surroundings and writes the files; `road_scene` places the things, `road_things` draws them, and
`road_camera` turns the layers into the two images.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.progress import progress
from mmfuse.scenes import drawing, road_things
from mmfuse.scenes.drawing import COLOUR, GLOW, HEAT, LIGHT, Spot
from mmfuse.scenes.road_camera import infrared_picture, visible_picture
from mmfuse.scenes.road_scene import BUMP, CURVE, FINE, KINDS, Scene, Thing, plan

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
MASK_IDS = ("unlabelled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
CYCLE = ("day", "night", "smoke", "day", "night", "glare", "day", "night", "smoke", "glare")
VISIBLE_SHARE = 0.4
MIN_SIDE = 1 / 24
SEEN = (slice(1, None, FINE), slice(1, None, FINE))  # the canvas pixels from which masks and boxes are read


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
    free = scene.open[rows, columns]  # near walls are painted first, so they hide far ones
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
    """Paint the road with its markings, the kerbs, the pavement, a crossing and sometimes a speed bump."""
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
    """Paint the buildings on both sides, near to far, then distant roofs at the horizon."""
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


def _paint(scene: Scene) -> list[tuple[int, int, int]]:
    """Paint everything, far things first; return class, owner and own pixel count of the things with boxes."""
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
        road_things.draw_guardrail(scene)
    props: list[tuple[float, Thing | tuple]] = [(t.spot.z, t) for t in scene.things] + [(t[0], t) for t in trees]
    for z, prop in sorted(props, key=lambda p: -p[0]):
        if not isinstance(prop, Thing):
            road_things.draw_tree(scene, Spot(prop[1], z), prop[2], prop[3])
            continue
        kind = KINDS[prop.kind]
        owner = canvas.new_owner(kind.label)
        road_things.draw_thing(scene, prop, owner)
        if kind.box is not None:
            boxed.append((kind.box, owner, int((canvas.owner[SEEN] == owner).sum())))
    return boxed


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
    """One pair: infrared (H, W), visible (H, W, 3), mask (H, W), all uint8, and YOLO lines."""

    infrared: NDArray[np.uint8]
    visible: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: list[str]


def render(rng: np.random.Generator, condition: str, height: int, width: int) -> Sample:
    """Render one road scene under a condition of `CYCLE`."""
    scene = plan(rng, condition, height, width)
    boxed = _paint(scene)
    owners = scene.canvas.owner[SEEN]
    mask = np.array(scene.canvas.labels, np.uint8)[owners]
    return Sample(infrared_picture(scene), visible_picture(scene), mask, _boxes(owners, boxed))


def generate(folder: Path, *, seed: int, height: int, width: int, train: int, val: int, test: int) -> None:
    """Write road scenes for the three splits below `folder`; the same arguments give the same bytes.

    Image k of a split depends only on the seed, the split, k and the size. The caller is responsible for complete
    datasets: write into a temporary folder and rename it.
    """
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        places = [folder / split / part for part in ("infrared", "visible", "mask", "boxes")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for index in progress(range(count), f"draw {split}", unit="pairs"):
            condition = CYCLE[index % len(CYCLE)]
            sample = render(drawing.image_generator(seed, number, index), condition, height, width)
            name = f"{condition}_{index:04d}"
            for place, pixels in zip(places, sample[:3], strict=False):
                drawing.save_png(place / f"{name}.png", pixels)
            (places[3] / f"{name}.txt").write_text("".join(f"{line}\n" for line in sample.boxes), encoding="utf-8")
