"""Sensor models for a drawn road scene: lamp bloom, smoke, glare and noise; softness and stripes in infrared.

A scene's layers are painted at `FINE` times the size of its images. Both functions reduce them, and draw their noise
from the scene's own random generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mmfuse.scenes.drawing import GLOW, HEAT, LIGHT, Array, Spot, noise_tile, window
from mmfuse.scenes.road_scene import FINE, Scene, Thing


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
    """Blur (H, W, 3) on a coarse grid: the halo of a lens around light brighter than white."""
    height, width = light.shape[:2]
    channels = [gaussian_filter(light[::step, ::step, channel], sigma / step, truncate=3) for channel in range(3)]
    tall = _stretch(np.stack(channels, axis=-1), height)
    return _stretch(tall.swapaxes(0, 1), width).swapaxes(0, 1)


def _smoke(scene: Scene, visible: Array) -> Array:
    """Draw smoke plumes in front of the things that only infrared shows, and away from the others."""
    height, width = visible.shape[:2]
    rng, unit = scene.rng, height / 192
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    ragged = window(noise_tile(1.9, 2), rng, height, width, 1.6 * unit)
    fine = gaussian_filter(window(noise_tile(1.5, 9), rng, height, width, 1.6 * unit), 0.8 * unit)
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
    """Add glare from a low sun next to the things that only infrared shows."""
    height, width = visible.shape[:2]
    warm = [t for t in scene.things if t.warm] or [Thing("", Spot(0, 1), (0.9 * width, 0.7 * height) * 2, True)]
    target = max(warm, key=lambda t: (t.kind == "person", t.frame[3] - t.frame[1]))
    x, y = (target.frame[0] + target.frame[2]) / 2 / FINE, 0.6 * target.frame[1] / FINE
    rows, columns = np.arange(height, dtype=np.float32)[:, None] - y, np.arange(width, dtype=np.float32)[None] - x
    radius = np.hypot(rows, columns) / height
    spokes = 1 + 0.35 * np.cos(6 * np.arctan2(rows, columns) + 0.4) ** 8
    spread = height * (0.035 + 0.10 * np.clip(rows / height, 0, 1))
    mirror = np.exp(-((columns / spread) ** 2)) * np.clip(rows / height - 0.12, 0, 0.35)  # reflection on the road
    burn = 3.2 * np.exp(-((radius / 0.16) ** 2)) + 1.5 * spokes * np.exp(-radius / 0.20) + 1.5 * mirror
    return visible * (1 - 0.35 * np.exp(-radius / 0.5))[..., None] + burn[..., None] * np.array([1.0, 0.93, 0.78])


def visible_picture(scene: Scene) -> NDArray[np.uint8]:
    """Turn the painted layers into the visible image (H, W, 3), with the smoke or glare of its condition."""
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


def infrared_picture(scene: Scene) -> NDArray[np.uint8]:
    """Turn the painted heat into the infrared image (H, W): soft, with the fixed-pattern noise of a sensor."""
    rng = scene.rng
    heat = _reduce(scene.canvas.layers[..., HEAT])
    height, width = heat.shape
    heat = gaussian_filter(heat, 0.55 * height / 192)
    heat += 0.45 * (heat - gaussian_filter(heat, 2.5 * height / 192))  # thermal cameras sharpen and overshoot
    heat = heat + 0.012 * window(noise_tile(1.8), rng, height, width, height / 96)
    stripes = gaussian_filter(rng.standard_normal(width), 0.7) * 0.008
    noise = 0.009 * rng.standard_normal((height, width), np.float32)
    heat = rng.uniform(0.92, 1.08) * heat + rng.uniform(-0.02, 0.03) + stripes[None] + noise
    return np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
