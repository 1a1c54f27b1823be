"""Registration: known transforms are found, images without a common content are refused, files are checked."""

import json

import numpy as np
import pytest
from scipy import ndimage

from mmfuse.alignment.registration import align, align_frames
from mmfuse.alignment.transform import Transform, read_transform, write_transform
from mmfuse.benchmarks import align as benchmark
from mmfuse.cli.aligning import align_folders, transform_points
from mmfuse.cli.own_images import fuse_folders
from mmfuse.data.images import read_image, write_image
from mmfuse.errors import UserError


def scene(seed, height=160, width=208):
    """A drawn scene in two modalities: the same shapes, with unrelated and partly inverted brightness."""
    rng = np.random.default_rng(seed)
    first = np.full((height, width), 90.0)
    second = np.full((height, width), 140.0)
    y, x = np.mgrid[:height, :width]
    for _ in range(14):
        cy, cx, ry, rx = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(6, 30), rng.uniform(6, 30)
        angle = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (np.abs(u) < rx) & (np.abs(v) < ry) if rng.random() < 0.5 else (u / rx) ** 2 + (v / ry) ** 2 < 1
        first[inside], second[inside] = rng.uniform(20, 230, 2)
    noisy = [ndimage.gaussian_filter(image, blur) for image, blur in ((first, 1.2), (second, 0.7))]
    return [np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8) for image in noisy]


def matrix_of(degrees, scale, shift, shape, shear=0.0):
    """A map about the centre of an image, from the original to the moved image."""
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[1, shear], [0, 1]]
    centre = (np.array(shape[::-1]) - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + shift - linear @ centre
    return matrix


def moved(image, matrix):
    return Transform(matrix, image.shape[:2], image.shape[:2]).warp(image)


def errors(transform, matrix, shape):
    """Distances from the true places of positions that both images show."""
    height, width = shape
    true = np.stack(np.meshgrid(np.linspace(0, width - 1, 12), np.linspace(0, height - 1, 9)), -1).reshape(-1, 2)
    there = true @ matrix[:2, :2].T + matrix[:2, 2]
    seen = ((there >= 0) & (there <= [width - 1, height - 1])).all(axis=1)
    return np.linalg.norm(transform.to_fixed(there[seen]) - true[seen], axis=1)


MOVES = [
    ("rigid", 0, 1.0, (0, 0), 0), ("rigid", 7, 1.0, (9, -6), 0), ("rigid", -11, 1.0, (-14, 10), 0),
    ("similarity", 4, 1.08, (5, 12), 0), ("similarity", -6, 0.9, (-8, 3), 0), ("affine", 5, 1.04, (10, -5), 0.03),
    ("affine", -3, 0.95, (-6, -9), -0.04), ("auto", 2, 1.1, (12, 8), 0),
]  # fmt: skip


@pytest.mark.parametrize(("model", "degrees", "scale", "shift", "shear"), MOVES)
@pytest.mark.parametrize("seed", [1, 2])
def test_known_transforms_are_found(seed, model, degrees, scale, shift, shear):
    first, second = scene(seed)
    matrix = matrix_of(degrees, scale, shift, first.shape, shear)
    found = align(moved(first, matrix), second, model=model)
    assert found.aligned
    assert np.median(errors(found, matrix, first.shape)) < 1.0
    assert found.confidence > 0.5


def test_types_and_colours_give_the_same_transform():
    first, second = scene(3)
    matrix = matrix_of(5, 1.0, (6, 4), first.shape)
    here = moved(first, matrix)
    expected = align(here, second, model="similarity").matrix
    colour = np.repeat(second[..., None], 3, axis=2)
    for one, other in ((here.astype(np.uint16) * 257, colour), (here / 255.0, second.astype(np.float32) - 128)):
        assert np.abs(align(one, other, model="similarity").matrix - expected).max() < 0.05


def test_an_image_of_fewer_pixels_is_aligned():
    first, second = scene(4)
    small = ndimage.zoom(first.astype(float), 0.5, order=1, grid_mode=True, mode="nearest").astype(np.uint8)
    found = align(small, second)
    assert found.aligned
    assert found.warp(small).shape == second.shape
    centre = found.to_fixed(np.array([[51.5, 39.5]]))  # the middle of the smaller image
    assert np.linalg.norm(centre - [103.5, 79.5]) < 1.5


def test_large_images_are_aligned_in_full_resolution():
    pair = [np.kron(image, np.ones((7, 7), np.uint8)) for image in scene(14)]
    matrix = matrix_of(4, 1.05, (60, -40), pair[0].shape)
    found = align(moved(pair[0], matrix), pair[1], deformable=True)
    assert found.aligned
    assert np.median(errors(found, matrix, pair[0].shape)) < 4  # in pixels of which seven are one of the scene


def test_a_bent_image_is_aligned_better_with_a_deformation():
    first, second = scene(5, 200, 256)
    y, x = np.mgrid[:200, :256].astype(float)
    bend = 6 * np.sin(np.pi * x / 255)  # the moved image shows at (x, y) what the original shows at (x, y + bend)
    here = ndimage.map_coordinates(first.astype(float), [y + bend, x], order=1, mode="nearest").astype(np.uint8)
    points = np.stack(np.meshgrid(np.linspace(30, 225, 9), np.linspace(30, 170, 7)), -1).reshape(-1, 2)
    true = points + np.stack([np.zeros(len(points)), 6 * np.sin(np.pi * points[:, 0] / 255)], axis=1)
    linear, bent = (align(here, second, model="affine", deformable=on) for on in (False, True))
    before, after = (np.linalg.norm(one.to_fixed(points) - true, axis=1).mean() for one in (linear, bent))
    assert after < 0.7 * before
    assert np.abs(bent.to_moving(bent.to_fixed(points)) - points).max() < 1e-6


def scan(seed, size=160):
    """A drawn slice of a head: bone and sharp tissues, and the blurred activity of some of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(x / rng.uniform(0.30, 0.33), y / rng.uniform(0.36, 0.40)) / size
    sharp = np.where(radius < 1, 230.0, 0)
    sharp[radius < 0.9] = 90
    activity = np.where(radius < 0.9, 60.0, 0)
    for _ in range(7):
        cy, cx, ry, rx = *rng.uniform(-0.22, 0.22, 2) * size, *rng.uniform(0.03, 0.09, 2) * size
        spot = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        sharp[spot & (radius < 0.88)] = rng.uniform(40, 160)
        activity[spot & (radius < 0.85)] = rng.uniform(0, 230)
    return [
        np.clip(ndimage.gaussian_filter(image, blur), 0, 255).astype(np.uint8)
        for image, blur in ((activity, 4), (sharp, 0.7))
    ]


@pytest.mark.parametrize(("degrees", "shift"), [(0, (0, 0)), (6, (9, -12)), (-9, (-15, 5)), (3, (14, 14))])
@pytest.mark.parametrize("seed", [1, 2])
def test_scans_are_aligned_by_a_rigid_map(seed, degrees, shift):
    activity, sharp = scan(seed)
    matrix = matrix_of(degrees, 1.0, shift, sharp.shape)
    found = align(moved(activity, matrix), sharp)
    assert (found.aligned, found.model) == (True, "rigid")
    assert np.median(errors(found, matrix, sharp.shape)) < 2.5


def blank(value):
    return np.full((160, 208), value, np.uint8)


HOPELESS = {
    "flat": lambda: (blank(80), scene(1)[1]),
    "both flat": lambda: (blank(80), blank(10)),
    "black": lambda: (blank(0), scene(1)[1]),
    "black fixed": lambda: (scene(1)[0], blank(0)),
    "unrelated": lambda: (scene(6)[0], scene(7)[1]),
    "unrelated too": lambda: (scene(8)[0], scene(9)[1]),
    "noise": lambda: tuple(np.random.default_rng(2).integers(0, 256, (2, 160, 208)).astype(np.uint8)),
    "moved too far": lambda: (np.roll(scene(1)[0], (80, 104), (0, 1)), scene(1)[1]),
    "one pixel": lambda: (
        blank(0) + (np.arange(208) == 100).astype(np.uint8) * np.eye(160, 1, dtype=np.uint8),
        blank(9),
    ),
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_images_without_common_content_are_not_aligned(kind):
    moving, fixed = HOPELESS[kind]()
    assert not align(moving, fixed).aligned


def test_equal_images_stay_where_they_are():
    first, _ = scene(10)
    found = align(first, first)
    assert found.aligned
    assert np.abs(found.warp(first).astype(int) - first).mean() < 1


@pytest.mark.parametrize(
    "image", [np.zeros((20, 200)), np.zeros((64, 64, 2)), np.zeros(50), np.full((64, 64), np.nan), np.zeros((0, 9))]
)
def test_unusable_images_are_refused(image):
    with pytest.raises(UserError, match="moving image"):
        align(image, scene(1)[1])
    with pytest.raises(UserError, match="fixed image"):
        align(scene(1)[0], image)


def test_unknown_models_are_refused():
    with pytest.raises(UserError, match="did you mean 'affine'"):
        align(*scene(1), model="afine")


def test_one_transform_for_a_fixed_rig_uses_all_frames():
    matrix = matrix_of(4, 1.05, (7, -5), (160, 208))
    frames = [(moved(first, matrix), second) for first, second in (scene(seed) for seed in (11, 12, 13))]
    frames.insert(1, (blank(50), blank(70)))  # a frame that shows nothing
    found = align_frames(frames)
    assert found.aligned
    assert errors(found, matrix, (160, 208)).max() < 1.5
    with pytest.raises(UserError, match="differ in size"):
        align_frames([frames[0], (frames[1][0][:100], frames[1][1])])


# the file ---------------------------------------------------------------------------------------------------------


def a_transform(displacement=None):
    return Transform(matrix_of(3, 1.1, (4, 5), (90, 120)), (90, 120), (100, 110), "similarity", 0.7, True, displacement)


def test_a_transform_is_read_as_written(tmp_path):
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 90, (50, 2))
    for one in (a_transform(), a_transform(rng.uniform(-0.8, 0.8, (2, 5, 6)))):
        write_transform(tmp_path / "t.json", one)
        read = read_transform(tmp_path / "t.json")
        assert (read.moving, read.fixed, read.model, read.confidence) == ((90, 120), (100, 110), "similarity", 0.7)
        assert np.abs(read.to_fixed(points) - one.to_fixed(points)).max() < 1e-3
        assert np.abs(read.to_fixed(read.to_moving(points)) - points).max() < 1e-6


def edits():
    def change(**changes):
        return lambda value: value.update(changes)

    matrix = [[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]]
    yield "no format", lambda value: value.pop("format")
    yield "other format", change(format="mmfuse-transform/2")
    yield "unknown key", change(matrx=matrix)
    yield "a missing row", change(matrix=matrix[:1])
    yield "a short row", change(matrix=[[1, 0], [0, 1]])
    yield "text", change(matrix=[["1", 0, 0], [0, 1, 0]])
    yield "boolean", change(matrix=[[True, 0, 0], [0, 1, 0]])
    yield "singular", change(matrix=[[1, 1, 0], [1, 1, 0]])
    yield "zero", change(matrix=[[0, 0, 0], [0, 0, 0]])
    yield "mirrored", change(matrix=[[-1, 0, 100], [0, 1, 0]])
    yield "huge", change(matrix=[[1e300, 0, 0], [0, 1e300, 0]])
    yield "tiny", change(matrix=[[1e-9, 0, 0], [0, 1e-9, 0]])
    yield "far away", change(matrix=[[1, 0, 1e6], [0, 1, 0]])
    yield "sheared, but said to be rigid", change(model="rigid", matrix=[[1, 0.3, 0], [0, 1, 0]])
    yield "unknown model", change(model="projective")
    yield "no size", change(moving={"width": 3})
    yield "negative size", change(fixed={"width": -3, "height": 4})
    yield "fractional size", change(fixed={"width": 3.5, "height": 4})
    yield "confidence", change(confidence=2)
    yield "uneven displacement", change(displacement={"x": [[0, 0], [0, 0]], "y": [[0, 0], [0, 0, 0]]})
    yield "one row of displacement", change(displacement={"x": [[0, 0]], "y": [[0, 0]]})
    yield "half a displacement", change(displacement={"x": [[0, 0], [0, 0]]})
    yield "folded", change(displacement={"x": [[0, 90], [0, 0]], "y": [[0, 0], [0, 0]]})
    yield "endless displacement", change(displacement={"x": [[0, 1e999], [0, 0]], "y": [[0, 0], [0, 0]]})
    yield "a list", lambda _: [1, 2]


@pytest.mark.parametrize(("kind", "edit"), list(edits()), ids=lambda one: one if isinstance(one, str) else "")
def test_damaged_transforms_get_one_clear_error(tmp_path, kind, edit):
    path = tmp_path / "t.json"
    write_transform(path, a_transform())
    value = json.loads(path.read_text())
    edited = edit(value)
    path.write_text(json.dumps(edited if kind == "a list" else value))
    with pytest.raises(UserError, match=r"t\.json"):
        read_transform(path)


def test_truncated_transforms_get_one_clear_error(tmp_path):
    path = tmp_path / "t.json"
    with pytest.raises(UserError, match="not found"):
        read_transform(path)
    write_transform(path, a_transform(np.zeros((2, 3, 3))))
    whole = path.read_bytes()
    for end in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"t\.json"):
            read_transform(path)


# the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Three pairs of one rig, and one of which the images show different scenes."""
    matrix = matrix_of(3, 1.0, (8, -6), (160, 208))
    for name, seed in (("one", 11), ("two", 12), ("three", 13)):
        first, second = scene(seed)
        write_image(tmp_path / "ir" / f"{name}.png", moved(first, matrix))
        write_image(tmp_path / "vis" / f"{name}.png", np.repeat(second[..., None], 3, axis=2))
    return tmp_path, matrix


def test_align_writes_images_and_transforms(folders):
    root, matrix = folders
    align_folders(root / "ir", root / "vis", root / "out")
    assert sorted(path.name for path in (root / "out").iterdir()) == sorted(
        f"{name}.{kind}" for name in ("one", "two", "three") for kind in ("json", "png")
    )
    found = read_transform(root / "out/one.json")
    assert errors(found, matrix, (160, 208)).max() < 2
    assert np.array_equal(read_image(root / "out/one.png"), found.warp(read_image(root / "ir/one.png")))
    align_folders(root / "ir/two.png", root / "vis/two.png", root / "single")
    assert (root / "single/two.json").read_bytes() == (root / "out/two.json").read_bytes()


def test_pairs_that_are_not_aligned_are_reported_and_not_written(folders):
    root, _ = folders
    write_image(root / "ir/wrong.png", scene(30)[0])
    write_image(root / "vis/wrong.png", scene(31)[1])
    with pytest.raises(UserError, match="Of 4 pairs, 1 cannot be aligned") as raised:
        align_folders(root / "ir", root / "vis", root / "out")
    assert "wrong: confidence" in str(raised.value)
    assert {path.stem for path in (root / "out").iterdir()} == {"one", "two", "three"}
    with pytest.raises(UserError, match="not fused"):
        fuse_folders(root / "ir", root / "vis", root / "fused", method="average", align="a")
    assert {path.stem for path in (root / "fused").iterdir()} == {"one", "two", "three"}
    with pytest.raises(UserError, match="Of 1 pair, 1 cannot be aligned; nothing is written"):
        fuse_folders(root / "ir/wrong.png", root / "vis/wrong.png", root / "none", align="b")
    assert not (root / "none").exists()


def test_a_fixed_rig_has_one_transform_that_can_be_used_again(folders):
    root, matrix = folders
    align_folders(root / "ir", root / "vis", root / "out", fixed_rig=True)
    assert {path.name for path in (root / "out").glob("*.json")} == {"transform.json"}
    assert errors(read_transform(root / "out/transform.json"), matrix, (160, 208)).max() < 1.5
    align_folders(root / "ir", root / "vis", root / "again", transform=root / "out/transform.json")
    for path in (root / "again").iterdir():
        assert path.read_bytes() == (root / "out" / path.name).read_bytes()
    with pytest.raises(UserError, match="no effect"):
        align_folders(root / "ir", root / "vis", root / "no", transform=root / "out/transform.json", fixed_rig=True)
    write_image(root / "ir/one.png", read_image(root / "ir/one.png")[:100])
    with pytest.raises(UserError, match=r"one\.png does not fit the transform"):
        align_folders(root / "ir", root / "vis", root / "no", transform=root / "out/transform.json")
    with pytest.raises(UserError, match="differ in size"):
        align_folders(root / "ir", root / "vis", root / "no", fixed_rig=True)
    write_image(root / "ir/two.png", read_image(root / "ir/two.png")[:20])
    with pytest.raises(UserError, match="Of 3 pairs, 2 cannot be used"):
        align_folders(root / "ir", root / "vis", root / "no", transform=root / "out/transform.json")
    with pytest.raises(UserError, match=r"two\.png is too small to be aligned"):
        align_folders(root / "ir", root / "vis", root / "no")
    assert not (root / "no").exists()


@pytest.mark.parametrize("side", ["a", "b"])
def test_fuse_aligns_first(folders, side):
    root, _ = folders
    align_folders(*((root / "ir", root / "vis") if side == "a" else (root / "vis", root / "ir")), root / "out")
    pair = (root / "out", root / "vis") if side == "a" else (root / "ir", root / "out")
    fuse_folders(*pair, root / "expected", method="average")
    fuse_folders(root / "ir", root / "vis", root / "fused", method="average", align=side)
    for name in ("one", "two", "three"):
        assert np.array_equal(read_image(root / f"fused/{name}.png"), read_image(root / f"expected/{name}.png"))
    with pytest.raises(UserError, match="without --align"):
        fuse_folders(root / "ir", root / "vis", root / "fused", method="average", transform=root / "out/one.json")


def test_sources_are_not_overwritten(folders):
    root, _ = folders
    with pytest.raises(UserError, match="overwrite"):
        align_folders(root / "ir", root / "vis", root / "ir")


def test_positions_are_mapped_and_other_columns_kept(tmp_path):
    one = a_transform()
    write_transform(tmp_path / "t.json", one)
    (tmp_path / "in.csv").write_text("name,y,x\nnose,2.5,10\nchin,-3,1e1\n")
    assert transform_points(tmp_path / "t.json", tmp_path / "in.csv", tmp_path / "out.csv") == 2
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "name,y,x"
    for line, point in zip(lines[1:], ((10, 2.5), (10, -3)), strict=True):
        name, y, x = line.split(",")
        assert name in {"nose", "chin"}
        assert np.allclose([float(x), float(y)], one.to_fixed(np.array([point]))[0], atol=1e-4)


@pytest.mark.parametrize(
    "text", ["", "x\n1\n", "x,y\n1\n", "x,y\n1,two\n", "x,y\n1,nan\n", "x,y\n1,inf\n", "x,y\n1,\n", "x,y,x\n1,2,3\n"]
)
def test_bad_positions_get_one_clear_error(tmp_path, text):
    write_transform(tmp_path / "t.json", a_transform())
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(UserError, match=r"in\.csv"):
        transform_points(tmp_path / "t.json", tmp_path / "in.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_benchmark_measures_known_positions(tmp_path):
    matrix = matrix_of(5, 1.0, (10, 6), (160, 208))
    first, second = scene(1)
    group = tmp_path / "drawn"
    write_image(group / "01/moving.png", moved(first, matrix))
    write_image(group / "01/fixed.png", second)
    true = np.array([[40.0, 50], [150, 60], [100, 120]])
    there = true @ matrix[:2, :2].T + matrix[:2, 2]
    rows = [
        "fixed_x,fixed_y,moving_x,moving_y",
        *(f"{a},{b},{c},{d}" for (a, b), (c, d) in zip(true, there, strict=True)),
    ]
    (group / "01/landmarks.csv").write_text("\n".join(rows) + "\n")
    result = benchmark.run(tmp_path)
    (one,) = result["groups"]
    assert one["aligned"] == one["pairs"] == 1
    assert one["before"]["median"] == pytest.approx(np.median(np.linalg.norm(true - there, axis=1)), abs=1e-6)
    assert one["after"]["median"] < 1 < one["before"]["median"]
    assert (one["below_3"], one["halved"], one["worse"]) == (1, 1, 0)
    assert any("drawn" in line for line in benchmark.lines(result))
    for text in ("fixed_x,fixed_y,moving_x,moving_y\n", "fixed_x,fixed_y,moving_x,moving_y\n1,2,3,four\n", "x\n1\n"):
        (group / "01/landmarks.csv").write_text(text)
        with pytest.raises(UserError, match="landmarks"):
            benchmark.run(tmp_path)
    with pytest.raises(UserError, match="no pairs with known positions"):
        benchmark.run(tmp_path / "nothing")
