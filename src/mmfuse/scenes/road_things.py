"""Things on and beside a drawn road: vehicles, people, lamps, cones, car stops, guardrails and trees.

All coordinates are in metres relative to the thing's position, as flat parts or as extruded bodies, see `drawing`. For
vehicles, `air` is the heat of the cold parts and `lit` the strength of the lamps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mmfuse.scenes.drawing import (
    COLOUR,
    GLOW,
    HEAT,
    LIGHT,
    TILE,
    Brush,
    Colour,
    Paint,
    Painter,
    Points,
    Spot,
    disc,
    extrude,
    limb,
    noise_tile,
    on_edge,
    on_side,
    rectangle,
    sample,
)
from mmfuse.scenes.road_scene import GUARDRAIL, KINDS, Scene, Thing

GLASS: Colour = (0.13, 0.17, 0.21)
TYRE: Colour = (0.05, 0.05, 0.055)
SKIN: tuple[Colour, ...] = ((0.80, 0.60, 0.48), (0.62, 0.43, 0.32), (0.42, 0.28, 0.2))
# colours whose luminance differs from the asphalt's, so that things in daylight are visible in grey, too
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


def _wheels(faces: list, width: float, places: Sequence[float], radius: float, heat: float) -> None:
    """Put wheels on both sides (the last two faces) of an extruded body."""
    for face, w in zip(faces[-2:], (-width / 2 - 0.02, width / 2 + 0.02), strict=True):
        for place in places:
            face.append((on_side(disc(place, radius, radius * 1.22), w), Paint((0.03, 0.03, 0.03), heat - 0.25)))
            face.append((on_side(disc(place, radius, radius), w), Paint(TYRE, heat)))
            face.append((on_side(disc(place, radius, radius * 0.55), w), Paint((0.45, 0.46, 0.48), heat - 0.12)))


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
    """Draw a saloon, an estate or a small van."""
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
            face.append((on_side(np.array(pane), w), Paint(GLASS, air + 0.02, gradient=0.6)))
        face.append((on_side(rectangle(-1.95, 0.24, 1.95, 0.36), w), Paint((0.05, 0.05, 0.05), 0.5)))
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
        face.append((on_side(rectangle(l0, 0.36, l1, 1.05), w), Paint(colour, air + 0.16)))
        edges = np.linspace(l0 + 0.3, l1 - 0.4, 8)
        for index, (a, b) in enumerate(pairwise(edges)):
            face.append((on_side(rectangle(a + 0.07, 0.5 if index == 5 else 1.5, b - 0.07, 2.6), w), pane))
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
        face.append((on_side(rectangle(l0, 0.5, l1, 0.92), w), under))
        for rib in np.linspace(l0, l1, 7)[1:-1]:
            strip = rectangle(rib - 0.03, 1.0, rib + 0.03, tall - 0.05)
            face.append((on_side(strip, w), cargo._replace(gradient=-0.5)))
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
        face.append((on_side(pane, w), Paint(GLASS, air, gradient=0.6)))
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
    """Draw a walking or standing person in a random pose."""
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


def draw_tree(scene: Scene, spot: Spot, size: float, tone: Colour) -> None:
    """Paint a tree: a trunk and a crown, `size` metres high and coloured `tone`, with noisy edge and leaves."""
    canvas, camera, weather = scene.canvas, scene.camera, scene.weather
    light = float(np.clip(scene.light(np.array(spot.x), np.array(spot.z)), 0, 1))
    painter = Painter(canvas, camera, spot, Brush(light=light))
    painter.ground_shadow(2.2, 1.6, 0.75)
    trunk, lean = Paint((0.22, 0.17, 0.13), weather.tree + 0.06, gradient=-0.3), size * 0.04
    painter.flat(limb((0, 0), (lean, 1.9 * size / 2), 0.13, 0.09), trunk)
    for reach in (-0.5, 0.45):
        painter.flat(limb((lean, 0.75 * size), (reach * size / 2, 1.3 * size), 0.07, 0.04), trunk)
    middle, high = camera.project(np.array([[spot.x + lean, 1.35 * size, spot.z]]))[0], camera.focal * size / spot.z
    top, bottom = (int(np.clip(middle[1] + s * 0.75 * high, 0, canvas.height)) for s in (-1, 1))
    left, right = (int(np.clip(middle[0] + s * 0.75 * high, 0, canvas.width)) for s in (-1, 1))
    if top >= bottom or left >= right:
        return
    v = ((np.arange(top, bottom) - middle[1]) / high)[:, None]
    u = ((np.arange(left, right) - middle[0]) / high)[None]
    start = scene.rng.integers(TILE, size=2)
    clumps = sample(noise_tile(1.2, 5), start[0] + v * 150 + 600, start[1] + u * 150 + 600)
    leaves = sample(noise_tile(0.3, 20), start[0] + v * 210 + 600, start[1] + u * 210 + 600)
    crown = 1 - np.hypot(u / 0.55, v / 0.52) ** 2 + 0.33 * clumps + 0.1 * leaves > 0.12
    shade = np.clip(0.72 + 0.28 * clumps - 0.5 * v + 0.16 * leaves, 0.15, 1.5)
    part = canvas.layers[top:bottom, left:right]
    part[crown, COLOUR] = shade[crown][:, None] * np.array(tone)
    part[crown, HEAT] = (weather.tree + 0.028 * clumps + 0.012 * leaves)[crown]
    part[crown, GLOW] = 0
    part[crown, LIGHT] = light if weather.lit < 1 else 0.35 * light
    canvas.owner[top:bottom, left:right][crown] = 0


def draw_guardrail(scene: Scene) -> None:
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
        painter.flat(rectangle(-0.06, 0, 0.06, 0.85), white)
        for y in (0.45, 0.82):
            painter.side(rectangle(0, y - 0.06, (far - near) / 6, y + 0.06), white)


def draw_lamp(scene: Scene, painter: Painter, lift: float) -> None:
    """Paint a globe, a street lantern or a traffic light; its head is `lift` metres up a pole and has the box."""
    rng, lit = scene.rng, scene.weather.lit
    pole = Painter(painter.canvas, painter.camera, painter.spot, painter.brush._replace(owner=0))
    pole.flat(rectangle(-0.06, 0, 0.06, lift + 0.05), Paint((0.2, 0.21, 0.22), 0.3))
    glow = (2.6 * lit, 2.3 * lit, 1.6 * lit)
    style = rng.integers(3)
    if style == 0:
        painter.flat(disc(0, lift + 0.4, 0.4), Paint((0.93, 0.93, 0.9), 0.45, glow, 0.3))
    elif style == 1:
        glass = np.array([[-0.26, lift], [0.26, lift], [0.38, lift + 0.6], [-0.38, lift + 0.6]])
        painter.flat(glass, Paint((0.9, 0.88, 0.78), 0.45, glow, 0.3))
        roof = np.array([[-0.44, lift + 0.58], [0.44, lift + 0.58], [0.1, lift + 0.82], [-0.1, lift + 0.82]])
        painter.flat(roof, Paint((0.12, 0.13, 0.13), 0.4))
    else:
        painter.flat(rectangle(-0.36, lift - 0.2, 0.36, lift + 0.9), Paint((0.1, 0.11, 0.1), 0.4))
        on = rng.integers(3)
        hues: tuple[Colour, ...] = ((0.1, 1.0, 0.45), (1.0, 0.6, 0.05), (1.0, 0.08, 0.05))
        for index, hue in enumerate(hues):
            power = (0.35 + 1.3 * lit) * (index == on)
            shine = (hue[0] * power, hue[1] * power, hue[2] * power)
            dull = (0.25 * hue[0], 0.25 * hue[1], 0.25 * hue[2])
            painter.flat(disc(0, lift + 0.35 * index, 0.16), Paint(dull, 0.42, shine))


def draw_small(scene: Scene, painter: Painter, name: str) -> None:
    """Paint a traffic cone (`name` is "cone") or a car stop (any other name)."""
    if name == "cone":
        orange, white = Paint((0.95, 0.33, 0.08), 0.4, gradient=0.3), Paint((0.92, 0.92, 0.9), 0.4)
        painter.flat(rectangle(-0.25, 0, 0.25, 0.07), orange)
        painter.flat(np.array([[-0.19, 0.05], [0.19, 0.05], [0.04, 0.8], [-0.04, 0.8]]), orange)
        painter.flat(np.array([[-0.14, 0.28], [0.14, 0.28], [0.1, 0.46], [-0.1, 0.46]]), white)
        return
    grey, yellow = Paint((0.72, 0.71, 0.68), 0.4, gradient=0.3), Paint((0.85, 0.7, 0.1), 0.4)
    if scene.rng.random() < 0.5:
        block = np.array([[-0.2, 0.0], [-0.13, 0.3], [0.13, 0.3], [0.2, 0.0]])
        painter.solid(extrude(block, 0.9, [grey] * 4, grey))
        return
    for x in (-0.36, 0.36):
        painter.flat(rectangle(x - 0.07, 0, x + 0.07, 0.52), yellow)
    painter.flat(rectangle(-0.43, 0.42, 0.43, 0.56), yellow)


def draw_thing(scene: Scene, thing: Thing, owner: int) -> None:
    """Paint one thing with its shadow, lighting and thermal contrast."""
    rng, weather, spot = scene.rng, scene.weather, thing.spot
    contrast = 1.0 if thing.warm else float(rng.uniform(0.02, 0.06))
    light = float(np.clip(scene.light(np.array(spot.x), np.array(spot.z)), 0, 1.1))
    painter = Painter(scene.canvas, scene.camera, spot, Brush(owner, light, contrast))
    across, _, along = KINDS[thing.kind].extent
    painter.ground_shadow(across, along, 0.5, 0.16 if thing.warm and along > 1 else 0.0)
    colour = CAR_COLOURS[rng.integers(len(CAR_COLOURS))]
    lamps = weather.lit * float(thing.warm and rng.random() < 0.5)
    if thing.kind in {"car", "bus", "truck"}:
        draw = {"car": draw_car, "bus": draw_bus, "truck": draw_truck}[thing.kind]
        draw(painter, rng, colour, weather.road, lamps)
    elif thing.kind == "motorcycle":
        draw_motorcycle(painter, colour, lamps)
    elif thing.kind == "person":
        draw_person(painter, rng, CLOTHES[rng.integers(len(CLOTHES))])
    elif thing.kind == "lamp":
        draw_lamp(scene, painter, thing.lift)
    else:
        draw_small(scene, painter, thing.kind)
