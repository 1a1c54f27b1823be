"""The embedded scenes: same bytes, right layout, boxes that fit their masks, and things that only one picture shows."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from mmfuse.scenes import synthetic_brain, synthetic_road
from mmfuse.scenes.drawing import HEAT, Brush, Canvas, Paint, image_generator, noise_tile
from mmfuse.scenes.road_scene import WEATHER

HEIGHT, WIDTH, ROADS, BRAINS = 192, 256, 50, 24
MASK_OF_CLASS = {0: 2, 1: 1, 2: 1, 4: 3, 5: 1}  # a lamp has no mask id
PAIRED = {"road": ("infrared", "visible", "mask", "boxes"), "brain": ("mri", "functional", "mask")}


def digests(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def generate(module, folder, counts, seed=3, height=96, width=128):
    module.generate(folder, seed=seed, height=height, width=width, train=counts[0], val=counts[1], test=counts[2])
    return digests(folder)


@pytest.fixture(scope="module")
def roads():
    """Fifty scenes: (condition, sample, boxes as an array)."""
    scenes = []
    for index in range(ROADS):
        condition = synthetic_road.CYCLE[index % len(synthetic_road.CYCLE)]
        sample = synthetic_road.render(image_generator(11, 0, index), condition, HEIGHT, WIDTH)
        scenes.append((condition, sample, np.array([line.split() for line in sample.boxes], float).reshape(-1, 5)))
    return scenes


@pytest.fixture(scope="module")
def brains():
    """Twenty-four slices: (kind, sample)."""
    kinds = [synthetic_brain.KINDS[index % 3] for index in range(BRAINS)]
    return [(kind, synthetic_brain.render(image_generator(5, 0, i), kind, 160, 144)) for i, kind in enumerate(kinds)]


def corners(box):
    """Return left, top, right, bottom in whole pixels."""
    x, y, w, h = box[1] * WIDTH, box[2] * HEIGHT, box[3] * WIDTH, box[4] * HEIGHT
    return round(x - w / 2), round(y - h / 2), round(x + w / 2), round(y + h / 2)


def contrast(picture, inside, away=6):
    """Return how far the mean level of a region (0..1) is from that of the ring around it."""
    near = binary_dilation(inside, iterations=2)
    ring = binary_dilation(inside, iterations=away) & ~near
    return abs(float(picture[inside].mean()) - float(picture[ring].mean())) / 255


def grey(rgb):
    return rgb if rgb.ndim == 2 else rgb @ np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def found(roads):
    """List (condition, class, infrared contrast, visible contrast) of every boxed thing."""
    things = []
    for condition, sample, boxes in roads:
        for box in boxes:
            left, top, right, bottom = corners(box)
            near = slice(max(top - 7, 0), bottom + 7), slice(max(left - 7, 0), right + 7)
            inside = np.zeros((HEIGHT, WIDTH), bool)
            inside[top:bottom, left:right] = True
            if int(box[0]) in MASK_OF_CLASS:
                inside &= sample.mask == MASK_OF_CLASS[int(box[0])]
            pair = (contrast(picture[near], inside[near]) for picture in (sample.infrared, grey(sample.visible)))
            things.append((condition, int(box[0]), *pair))
    return things


@pytest.mark.parametrize("module", [synthetic_road, synthetic_brain])
def test_the_same_seed_gives_the_same_bytes_however_many_are_made(module, tmp_path):
    few = generate(module, tmp_path / "few", (3, 1, 1))
    again = generate(module, tmp_path / "again", (3, 1, 1))
    many = generate(module, tmp_path / "many", (4, 2, 3))
    other = generate(module, tmp_path / "other", (3, 1, 1), seed=4)
    assert few == again
    assert few.items() <= many.items()
    pictures = [name for name in few if "boxes" not in name and "mask" not in name]
    assert all(few[name] != other[name] for name in pictures)
    assert len({few[name] for name in pictures}) == len(pictures), "two pictures are the same"


def test_road_layout(tmp_path):
    generate(synthetic_road, tmp_path, (10, 2, 1))
    names = [f"{condition}_{index:04d}" for index, condition in enumerate(synthetic_road.CYCLE)]
    for split, count in (("train", 10), ("val", 2), ("test", 1)):
        for part in PAIRED["road"]:
            assert sorted(p.stem for p in (tmp_path / split / part).iterdir()) == sorted(names[:count])
        for name in names[:count]:
            modes = {part: Image.open(tmp_path / split / part / f"{name}.png") for part in PAIRED["road"][:3]}
            assert {part: image.mode for part, image in modes.items()} == {
                "infrared": "L",
                "visible": "RGB",
                "mask": "L",
            }
            assert {image.size for image in modes.values()} == {(128, 96)}
            for line in (tmp_path / split / "boxes" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
                number, *values = line.split()
                assert number in "012345"
                assert all(len(value.partition(".")[2]) == 6 for value in values)


def test_brain_layout(tmp_path):
    generate(synthetic_brain, tmp_path, (6, 3, 0), height=128, width=144)
    expected = {"ct_0000", "pet_0001", "spect_0002", "ct_0003", "pet_0004", "spect_0005"}
    for part in PAIRED["brain"]:
        assert {p.stem for p in (tmp_path / "train" / part).iterdir()} == expected
        assert list((tmp_path / "test" / part).iterdir()) == []
    for name in expected:
        pictures = {part: Image.open(tmp_path / "train" / part / f"{name}.png") for part in PAIRED["brain"]}
        modes = {part: picture.mode for part, picture in pictures.items()}
        assert modes == {"mri": "L", "functional": "L" if name.startswith("ct") else "RGB", "mask": "L"}
        assert {picture.size for picture in pictures.values()} == {(144, 128)}
        assert set(np.unique(np.asarray(pictures["mask"]))) <= {0, 1}


def test_every_class_and_every_mask_id_occurs(roads):
    assert {int(c) for _, _, boxes in roads for c in boxes[:, 0]} == set(range(len(synthetic_road.CLASSES)))
    ids = set().union(*(np.unique(sample.mask).tolist() for _, sample, _ in roads))
    assert ids == set(range(len(synthetic_road.MASK_IDS)))
    assert {condition for condition, _, _ in roads} == set(WEATHER)


def test_boxes_lie_in_the_picture_and_fit_their_masks(roads):
    for _, sample, boxes in roads:
        for box in boxes:
            left, top, right, bottom = corners(box)
            assert 0 <= left < right <= WIDTH
            assert 0 <= top < bottom <= HEIGHT
            assert min(right - left, bottom - top) >= 8
            if int(box[0]) not in MASK_OF_CLASS:
                continue
            part = sample.mask[top:bottom, left:right] == MASK_OF_CLASS[int(box[0])]
            assert part.mean() > 0.2, "the box holds too little of its thing"
            for edge in (part[0].any(), part[-1].any(), part[:, 0].any(), part[:, -1].any()):
                assert edge, "the box is wider than its thing"


def test_hidden_and_small_things_get_no_box():
    owners = np.zeros((192, 256), np.int16)
    owners[50:100, 50:100] = 1
    owners[50:100, 50:82] = 0  # something in front leaves 36 %
    owners[150:157, 150:200] = 2  # 7 rows
    owners[100:120, 200:232] = 3
    assert synthetic_road._boxes(owners, [(0, 1, 2_500), (0, 2, 350)]) == []
    assert synthetic_road._boxes(owners, [(1, 3, 640)]) == ["1 0.843750 0.572917 0.125000 0.104167"]


def test_each_modality_shows_things_that_the_other_hides(found):
    infrared_only = [f for f in found if f[2] > 0.12 and f[3] < 0.05]
    visible_only = [f for f in found if f[3] > 0.12 and f[2] < 0.04]
    assert len(infrared_only) > 0.08 * len(found)
    assert len(visible_only) > 0.12 * len(found)
    assert {f[0] for f in infrared_only} >= {"night", "smoke", "glare"}
    assert {f[0] for f in visible_only} == set(WEATHER)


def test_people_fade_by_day_in_infrared_and_warm_ones_by_night_in_visible(found):
    people = [f for f in found if f[1] == 0]
    day = np.median([f[2:] for f in people if f[0] == "day"], axis=0)
    assert day[0] < 0.05 < day[1], "thermal crossover by day"
    night = [f for f in people if f[0] == "night"]
    warm = [f for f in night if f[2] > 0.15]
    assert len(warm) > 0.5 * len(night)
    assert np.median([f[3] for f in warm]) < 0.04, "warm ones stand in the dark"


def test_lamps_and_cones_are_cold(roads, found):
    assert np.median([f[2] for f in found if f[1] == 3]) < 0.05 < np.median([f[3] for f in found if f[1] == 3])
    cones = [(s, s.mask == 7) for _, s, _ in roads if (s.mask == 7).sum() > 30]
    assert np.median([contrast(s.infrared, inside) for s, inside in cones]) < 0.03


def test_some_lesions_show_in_one_picture_only(brains):
    seen = {"mri": [], "functional": [], "both": []}
    for kind, sample in brains:
        for name, mask in sample.lesions.items():
            lesion = synthetic_brain.LESIONS[kind][name]
            inside = mask > 0
            if inside.sum() < 12:
                continue
            other = sample.functional if sample.functional.ndim == 2 else sample.functional.mean(axis=2)
            pair = contrast(sample.mri, inside), contrast(other, inside)
            shown = "both" if lesion.mri and lesion.functional else ("mri" if lesion.mri else "functional")
            seen[shown].append(pair)
    assert min(len(pairs) for pairs in seen.values()) >= 3
    mri, functional, both = (np.median(seen[k], axis=0) for k in ("mri", "functional", "both"))
    assert mri[0] > 0.15 > 2 * mri[1]
    assert functional[1] > 0.12 > 1.5 * functional[0]
    assert both.min() > 0.08


def test_the_ground_of_a_slice_is_black_and_the_head_is_not(brains):
    for kind, sample in brains:
        border = np.concatenate([sample.mri[:3].ravel(), sample.mri[-3:].ravel()])
        assert border.mean() < 8, kind
        assert 0.35 < (gaussian_filter(sample.mri.astype(float), 4) > 30).mean() < 0.8
        assert sample.mri[sample.mask > 0].min(initial=255) > 0 or kind == "pet"


def test_ct_shows_the_skull_and_mri_does_not(brains):
    for kind, sample in brains:
        if kind == "ct":
            bone = sample.functional > 220
            assert bone.sum() > 500
            assert sample.mri[bone].mean() < 60


def test_a_paint_of_low_contrast_takes_the_heat_behind_it():
    canvas = Canvas(20, 20)
    canvas.layers[..., HEAT] = 0.3
    square = np.array([[2.0, 2.0], [12.0, 2.0], [12.0, 12.0], [2.0, 12.0]])
    canvas.fill(square, Paint((1.0, 0.0, 0.0), 0.9), Brush(owner=1, contrast=0.1))
    assert canvas.layers[5, 5, HEAT] == pytest.approx(0.36)
    assert canvas.layers[5, 5, 0] == 1.0
    assert canvas.owner[5, 5] == 1
    assert canvas.owner[15, 15] == 0


def test_noise_tiles_are_periodic_and_of_unit_variance():
    tile = noise_tile(1.2, 5)
    assert tile.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(tile[0] - tile[-1]).mean() < 2 * np.abs(tile[1] - tile[0]).mean()


def test_the_generators_do_not_need_torch():
    folder = Path(synthetic_road.__file__).parent
    assert all("torch" not in path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
