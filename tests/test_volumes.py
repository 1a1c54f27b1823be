"""`mmfuse fuse` with volumes: NIfTI files and DICOM series, as scanners and converters write them."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmfuse.errors import UserError

nib = pytest.importorskip("nibabel", reason="the optional extra mmfuse[medical] is not installed")
pydicom = pytest.importorskip("pydicom", reason="the optional extra mmfuse[medical] is not installed")
pytest.importorskip("SimpleITK", reason="the optional extra mmfuse[medical] is not installed")

import torch  # noqa: E402
from nibabel.processing import resample_from_to  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402

from mmfuse.volumes import fusing  # noqa: E402
from mmfuse.volumes.dicom import read_dicom  # noqa: E402
from mmfuse.volumes.grids import resampled_slices  # noqa: E402
from mmfuse.volumes.kinds import is_volume  # noqa: E402
from mmfuse.volumes.nifti import read_nifti  # noqa: E402
from mmfuse.volumes.ranges import Choice, parsed, range_of  # noqa: E402
from mmfuse.volumes.volume import layout  # noqa: E402

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SHAPE = (20, 24, 18)


def mean(a, b):
    return (a + b) / 2


def sloped(a, b):
    """A fusion that depends on the position in the slice, so that a turned slice gives another result."""
    return a * torch.linspace(0.2, 1, a.shape[-1]) + b * torch.linspace(0, 0.1, a.shape[-2])[:, None]


def scan(seed=0, shape=SHAPE, most=900.0):
    """A smooth random volume with a dark surround."""
    rng = np.random.default_rng(seed)
    lines = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    waves = sum(np.sin(rng.uniform(1, 4) * line + rng.uniform(0, 6)) for line in lines) / 3
    return most * (sum(line**2 for line in lines) < 1) * (0.6 + 0.4 * waves)


def affine_of(seed):
    """A random rotation with flips, swapped axes, unequal voxel sizes and an offset."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(rng.uniform(0.4, 5, 3) * rng.choice([-1, 1], 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def save(path, data, affine=None, kind=nib.Nifti1Image, **changes):
    """Write a NIfTI file; changes are fields of its header."""
    header = kind.header_class()
    header.set_data_dtype(data.dtype)
    image = kind(data, np.diag([2.0, 2, 3, 1]) if affine is None else affine, header)
    image.header.set_xyzt_units("mm")
    for key, value in changes.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def fused(a, b, out, fuse=mean, *, axis="axial", value_range="full", grid="a"):
    pair = fusing.Pair(a, b, axis=axis, value_range=value_range, grid=grid)
    fusing.fuse_volumes(pair, out, fuse, CPU, {"method": "test"})
    return nib.load(out), pair


def unit(data, low=None, high=None):
    low, high = np.nanmin(data) if low is None else low, np.nanmax(data) if high is None else high
    return np.clip((data - low) / (high - low), 0, 1)


def slices_of(folder, data, *, names=None, step=(0.0, 0.0, 3.0), spacing=(1.5, 2.0), cosines=(1, 0, 0, 0, 1, 0),
              slopes=None, intercept=0.0, **tags):  # fmt: skip
    """Write a DICOM series of (slices, rows, columns) stored values; a tag may be a list with one value for each."""
    folder.mkdir(parents=True)
    series, frame = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    for number, plane in enumerate(data):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.FrameOfReferenceUID, one.PatientID, one.Modality = series, frame, "SECRET", "CT"
        one.Rows, one.Columns = plane.shape[:2]
        one.SamplesPerPixel = 3 if plane.ndim == 3 else 1
        one.PhotometricInterpretation = "RGB" if plane.ndim == 3 else "MONOCHROME2"
        if plane.ndim == 3:
            one.PlanarConfiguration = 0
        one.BitsAllocated = one.BitsStored = plane.dtype.itemsize * 8
        one.HighBit, one.PixelRepresentation = one.BitsStored - 1, int(plane.dtype.kind == "i")
        one.PixelSpacing, one.ImageOrientationPatient = list(spacing), list(cosines)
        one.ImagePositionPatient = [float(v) for v in np.array([-10.0, -20, 5]) + number * np.array(step)]
        one.RescaleSlope, one.RescaleIntercept = float(slopes[number]) if slopes is not None else 1.0, intercept
        one.PixelData = np.ascontiguousarray(plane).tobytes()
        for key, value in tags.items():
            chosen = value[number] if isinstance(value, list) and len(value) == len(data) else value
            if chosen is None:
                delattr(one, key)
            else:
                setattr(one, key, chosen)
        one.save_as(folder / (names[number] if names else f"{number:03}.dcm"), enforce_file_format=True)
    return folder


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("seed", range(12))
def test_geometry_is_kept_to_the_bit(tmp_path, seed):
    affine = affine_of(seed)
    kind = nib.Nifti2Image if seed % 3 == 0 else nib.Nifti1Image
    dtype = [np.int16, np.float32, np.uint8, np.dtype(">i2"), np.float64, np.uint16][seed % 6]
    first, second = scan(1, most=200).astype(dtype), scan(2, most=3.5).astype(np.float32)
    suffix = ".nii" if seed % 2 else ".nii.gz"
    a = save(tmp_path / f"a{suffix}", first, affine, kind, descrip=b"SECRET", aux_file=b"SECRET", toffset=2.0)
    b = save(tmp_path / "b.nii.gz", second, affine)
    image, _ = fused(a, b, tmp_path / f"out{suffix}", axis=["axial", "coronal", "sagittal"][seed % 3])
    source = nib.load(a)
    assert np.array_equal(image.affine, source.affine)
    for key in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                "qoffset_z", "pixdim", "sform_code", "qform_code", "xyzt_units"):  # fmt: skip
        assert np.array_equal(image.header[key], source.header[key]), key
    assert type(image) is kind
    assert image.shape == SHAPE
    assert image.get_data_dtype() == np.float32
    expected = (unit(np.asarray(source.dataobj, float)) + unit(second)) / 2
    assert np.abs(image.get_fdata() - expected).max() < 1e-6
    content = gzip.decompress((tmp_path / f"out{suffix}").read_bytes()) if suffix.endswith("gz") else (
        tmp_path / f"out{suffix}").read_bytes()  # fmt: skip
    assert b"SECRET" not in content
    assert b"Not for diagnosis" in image.header["descrip"].tobytes()
    told = json.loads(image.header.extensions[0].get_content())
    assert told["use"] == "Not for diagnosis"
    assert [source["name"] for source in told["sources"]] == [f"a{suffix}", "b.nii.gz"]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("order", ["RAS", "LPS", "SAL", "PIR", "ASR", "IRP"])
def test_the_order_of_the_voxels_in_the_file_does_not_matter(tmp_path, axis, order):
    affine = affine_of(3)
    affine[:3, :3] = np.diag([1.5, 2, 2.5])
    images = [nib.Nifti1Image(scan(seed).astype(np.float32), affine) for seed in (1, 2)]
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(order))
    for name, (first, second) in {"plain": images, "turned": [one.as_reoriented(turn) for one in images]}.items():
        nib.save(first, tmp_path / f"{name}_a.nii")
        nib.save(second, tmp_path / f"{name}_b.nii")
        fused(tmp_path / f"{name}_a.nii", tmp_path / f"{name}_b.nii", tmp_path / f"{name}.nii.gz", sloped, axis=axis)
    plain, turned = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("plain", "turned"))
    assert nib.aff2axcodes(turned.affine) == tuple(order)
    assert np.array_equal(nib.as_closest_canonical(turned).get_fdata(), plain.get_fdata())


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_are_seen_as_displayed(tmp_path, plane):
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)  # right, anterior, superior
    volume = read_nifti(save(tmp_path / "a.nii", scan().astype(np.float32), np.diag([1.0, 1, 1, 1])))
    along, rows, columns = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[plane]
    seen = layout(volume, plane).slices(places)
    assert (np.diff(seen[..., along], axis=0) == 1).all()
    assert (np.diff(seen[..., rows], axis=1) == -1).all()  # anterior or superior at the top
    assert (np.diff(seen[..., columns], axis=2) == -1).all()  # right, or anterior, at the left


@pytest.mark.parametrize("seed", range(8))
def test_another_grid_is_resampled_by_the_affines(tmp_path, seed):
    rng = np.random.default_rng(seed)
    target, moved = affine_of(seed), affine_of(seed + 100)
    for affine, shape in ((target, SHAPE), (moved, (30, 26, 34))):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        affine[:3, :3] *= (2.0 if affine is target else 1.9) * rng.uniform(0.9, 1.1, 3) / sizes
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    if seed % 2:
        moved[:3, :3] = moved[:3, :3] @ (np.eye(3) + np.diag([0.1, 0.05], 1))  # a tilted gantry
    data = scan(4, (30, 26, 34)).astype([np.float32, np.int16][seed % 2])
    a = read_nifti(save(tmp_path / "a.nii", scan(1).astype(np.float32), target))
    b = read_nifti(save(tmp_path / "b.nii.gz", data, moved))
    cut = layout(a, "coronal")
    found = np.empty(SHAPE)
    view = cut.slices(found)
    one = resampled_slices(b, a, cut)
    for number in range(len(view)):
        view[number] = one(number)
    steps = np.linalg.norm(np.linalg.solve(b.affine, a.affine)[:3, :3], axis=1)
    expected = resample_from_to(nib.load(tmp_path / "b.nii.gz"), (SHAPE, target), order=1, mode="constant", cval=np.nan)
    both = np.isfinite(found) & np.isfinite(expected.get_fdata())
    assert both.mean() > 0.3
    difference = np.abs(found - expected.get_fdata())[both]
    assert np.median(difference) < (1e-3 if steps.max() <= 1 else 12)
    if steps.max() <= 1:
        assert difference.max() < 0.05


def test_what_is_resampled_is_said(tmp_path):
    a = save(tmp_path / "a.nii", scan(1, (40, 48, 18)).astype(np.float32))
    small = np.diag([4.0, 4, 6, 1])
    small[:3, 3] = [1, 1, 1.5]
    b = save(tmp_path / "b.nii", scan(1, (40, 48, 18))[::2, ::2, ::2].astype(np.float32), small)
    image, pair = fused(a, b, tmp_path / "out.nii.gz")
    said = "\n".join(pair.told())
    assert f"resampled {b} (20 x 24 x 9 voxels of 4 x 4 x 6 mm) to the grid of {a}" in said
    assert json.loads(image.header.extensions[0].get_content())["resampled"] == "b.nii"
    image, pair = fused(a, b, tmp_path / "out.nii.gz", grid="b")
    assert np.array_equal(image.affine, nib.load(b).affine)
    assert f"resampled {a}" in "\n".join(pair.told())


# --------------------------------------------------------------------------------------------------------------- DICOM


@pytest.mark.parametrize("seed", range(8))
def test_a_series_becomes_a_volume(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    normal = np.cross(rotation[:, 0], rotation[:, 1])
    step = 2.5 * normal + (0.8 * rotation[:, 1] if seed % 4 == 3 else 0)  # the last of four with a tilted gantry
    stored = rng.integers(0, 3000, (17, 18, 21)).astype(np.uint16)
    slopes = rng.uniform(0.5, 2, 17) if seed % 2 else np.ones(17)
    folder = slices_of(
        tmp_path / "series", stored, names=[f"{n}.dcm" for n in rng.permutation(17)], step=step,
        cosines=[*rotation[:, 0], *rotation[:, 1]], slopes=slopes, intercept=-1024.0,
    )  # fmt: skip
    volume = read_dicom(folder)
    # the stack may begin at either end: positions decide
    values = {}
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        for row, column in ((0, 0), (17, 20), (3, 9)):
            place = (
                np.array(one.ImagePositionPatient, float) + column * 2.0 * rotation[:, 0] + row * 1.5 * rotation[:, 1]
            )
            values[tuple(place * [-1, -1, 1])] = float(one.pixel_array[row, column] * one.RescaleSlope - 1024)
    for place, value in values.items():
        index = np.linalg.solve(volume.affine, [*place, 1])[:3]
        assert np.abs(index - np.rint(index)).max() < 1e-3
        assert volume.data[tuple(np.rint(index).astype(int))] == pytest.approx(value, abs=1e-2)
    image, _ = fused(
        folder, save(tmp_path / "b.nii", scan(1, volume.shape).astype("f4"), volume.affine), tmp_path / "o.nii"
    )
    assert np.allclose(image.affine, volume.affine, rtol=1e-6, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"SECRET" not in (tmp_path / "o.nii").read_bytes()


def test_windows_padding_and_inverted_values(tmp_path):
    stored = np.arange(16 * 20 * 20).reshape(16, 20, 20).astype(np.int16)
    stored[:, 0, 0] = -2000
    plain = {"WindowCenter": 41.0, "WindowWidth": 101.0, "PixelPaddingValue": -2000}
    volume = read_dicom(slices_of(tmp_path / "plain", stored, intercept=-1000.0, **plain))
    chosen = range_of(volume, Choice("auto"))
    assert (chosen.low, chosen.high) == (-9.5, 90.5)  # PS3.3 C.11.2.1.2.1: centre - 0.5, width - 1
    assert np.isnan(volume.data[0, 0]).all()
    assert volume.notes == ["16 voxels without a value (NaN, infinite or padding) become black"]
    exact = read_dicom(slices_of(tmp_path / "exact", stored, VOILUTFunction="LINEAR_EXACT", **plain))
    assert exact.window == (-9.5, 91.5)
    several = read_dicom(
        slices_of(tmp_path / "several", stored, WindowCenter=[float(n) for n in range(16)], WindowWidth=11.0)
    )
    assert several.window == (-5.5, 19.5)
    assert several.window_source == "the windows of all slices together"
    two = read_dicom(slices_of(tmp_path / "two", stored, WindowCenter=[40.0, 300.0], WindowWidth=[81.0, 2001.0]))
    assert two.window == (-0.5, 79.5)
    inverted = read_dicom(slices_of(tmp_path / "one", stored, PhotometricInterpretation="MONOCHROME1", **plain))
    values = np.array([-9.5, 40.5, 90.5])
    assert range_of(inverted, Choice("auto")).unit(values).tolist() == [1, 0.5, 0]
    assert range_of(inverted, Choice("auto")).unit(np.array([np.nan])).tolist() == [0]


def test_warnings_about_series_that_do_not_belong_together(tmp_path):
    stored = scan(1, (16, 20, 20)).astype(np.int16)
    a = slices_of(tmp_path / "a", stored)
    b = slices_of(tmp_path / "b", stored, PatientID="OTHER")
    (b / "notes.txt").write_text("x")
    said = "\n".join(fusing.Pair(a, b, axis="axial", value_range="full", grid="a").told())
    assert "different patient IDs" in said
    assert "different frames of reference" in said
    assert "left out, no DICOM image: notes.txt" in said
    assert "SECRET" not in said


UNUSABLE = {
    "a missing slice": ({"keep": lambda n: n != 7}, "1 slice missing"),
    "uneven spacing": ({"positions": lambda n: n + (0.3 if n > 7 else 0)}, "mm apart"),
    "two images at one position": ({"positions": lambda n: n // 2}, "several images"),
    "another direction": ({"ImageOrientationPatient": [[1, 0, 0, 0, 1, 0]] * 15 + [[1, 0, 0, 0, 0, 1]]}, "parallel"),
    "another size of pixels": ({"PixelSpacing": [[1, 1]] * 15 + [[2, 2]]}, "parallel slices of one spacing"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient"),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing"),
    "two series": ({"SeriesInstanceUID": ["1.2"] * 8 + ["1.3"] * 8}, "several series"),
    "another kind": ({"PhotometricInterpretation": ["MONOCHROME2"] * 15 + ["MONOCHROME1"]}, "Photometric"),
    "several frames": ({"NumberOfFrames": 2}, "several frames"),
    "pixels cut off": ({"PixelData": b"\0" * 300}, "Damaged or unreadable DICOM file"),
    "a direction that is none": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_series_that_are_no_volume(tmp_path, kind):
    changes, words = UNUSABLE[kind]
    changes = dict(changes)
    keep, positions = changes.pop("keep", lambda _: True), changes.pop("positions", None)
    if positions is not None:
        changes["ImagePositionPatient"] = [[0, 0, 3.0 * positions(n)] for n in range(16)]
    folder = slices_of(tmp_path / "series", scan(1, (16, 20, 20)).astype(np.int16), **changes)
    for number in range(16):
        if not keep(number):
            (folder / f"{number:03}.dcm").unlink()
    with pytest.raises(UserError) as error:
        read_dicom(folder)
    assert words in str(error.value)


def test_files_of_pydicom():
    plain = read_dicom(Path(get_testdata_file("MR_small.dcm")))
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm"):
        other = read_dicom(Path(get_testdata_file(name)))
        assert np.array_equal(other.data, plain.data), name
        assert np.array_equal(other.affine, plain.affine), name
    ct = read_dicom(Path(get_testdata_file("CT_small.dcm")))
    assert ct.data.min() < -800  # in Hounsfield units
    assert ct.spacing == pytest.approx([0.661468, 0.661468, 5.0])
    for name in ("MR_truncated.dcm", "rtplan.dcm", "rtdose.dcm", "SC_rgb_rle_2frame.dcm", "reportsi.dcm"):
        with pytest.raises(UserError):
            read_dicom(Path(get_testdata_file(name)))
    if not pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless).is_available:
        with pytest.raises(UserError, match=r"Cannot unpack(.|\n)*JPEG-LS(.|\n)*pylibjpeg"):
            read_dicom(Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm")))


# ------------------------------------------------------------------------------------------- kinds of NIfTI and values


def damaged(path, kind):
    """Write a file that is no volume of real values or RGB."""
    data = scan(1).astype(np.float32)
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    if kind == "complex":
        save(path, data.astype(np.complex64))
    elif kind == "four dimensions":
        save(path, np.stack([data] * 3, -1))
    elif kind == "constant":
        save(path, np.full(SHAPE, 7, np.int16))
    elif kind == "only NaN":
        save(path, np.full(SHAPE, np.nan, np.float32))
    elif kind == "sform and qform":
        image = nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1]))
        image.set_sform(np.diag([-2.0, 2, 3, 1]), 1)
        image.set_qform(np.diag([2.0, 2, 3, 1]), 1)
        nib.save(image, path)
    elif kind == "thin":
        save(path, data[:8, :8, :8])
    elif kind == "colours with other values":
        save(path, rgb.astype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[70:72] = (1536).to_bytes(2, "little")
        path.write_bytes(gzip.compress(content))
    else:
        whole = gzip.decompress(save(path, data).read_bytes())
        changed = {
            "cut off": lambda: path.read_bytes()[:-300],
            "no end": lambda: path.read_bytes()[:-8],
            "wrong checksum": lambda: path.read_bytes()[:-8] + b"\1\2\3\4" + path.read_bytes()[-4:],
            "voxels cut off": lambda: gzip.compress(whole[:-1]),
            "huge": lambda: gzip.compress(whole[:42] + b"\xff\x7f" * 3 + whole[48:]),
            "no side": lambda: gzip.compress(whole[:42] + b"\0\0" + whole[44:]),
            "negative side": lambda: gzip.compress(whole[:42] + b"\xff\xff" + whole[44:]),
            "far voxels": lambda: gzip.compress(whole[:108] + np.float32(1e9).tobytes() + whole[112:]),
            "flat affine": lambda: gzip.compress(whole[:280] + bytes(16) + whole[296:]),
            "affine of NaN": lambda: gzip.compress(whole[:280] + np.float32(np.nan).tobytes() + whole[284:]),
            "unknown type": lambda: gzip.compress(whole[:70] + b"\x07\x00" + whole[72:]),
            "noise": lambda: gzip.compress(np.random.default_rng(0).bytes(9000)),
            "empty": lambda: b"",
            "header only": lambda: gzip.compress(whole[:348]),
            "pair": lambda: gzip.compress(whole[:344] + b"ni1\0" + whole[348:]),
            "analyze": lambda: gzip.compress(whole[:344] + b"\0\0\0\0" + whole[348:]),
        }[kind]()
        path.write_bytes(changed)
    return path


NO_VOLUMES = {
    "complex": "magnitude", "four dimensions": "4 dimensions: 20 x 24 x 18 x 3", "constant": "7 in every voxel",
    "only NaN": "no finite value", "sform and qform": "contradictory", "flat affine": "geometry",
    "affine of NaN": "geometry", "thin": "at least 16 x 16", "colours with other values": "Damaged|Cannot use",
    "cut off": "Damaged", "no end": "Damaged", "wrong checksum": "Damaged", "voxels cut off": "Damaged",
    "huge": "Damaged", "no side": "Damaged|dimensions", "negative side": "Damaged|dimensions", "far voxels": "Damaged",
    "unknown type": "Damaged", "noise": "Damaged", "empty": "Damaged|Cannot use", "header only": "Damaged",
    "pair": ".hdr and .img", "analyze": "Analyze",
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_VOLUMES)
@pytest.mark.parametrize("side", ["a", "b"])
def test_files_that_are_no_volume(tmp_path, kind, side):
    good = save(tmp_path / "good.nii.gz", scan(2).astype(np.float32))
    bad = damaged(tmp_path / "bad.nii.gz", kind)
    pair = (bad, good) if side == "a" else (good, bad)
    if (kind, side) == ("thin", "b"):
        pytest.skip("a small volume is resampled")
    with pytest.raises(UserError, match=NO_VOLUMES[kind]):
        fused(*pair, tmp_path / "out.nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.nii.gz", "good.nii.gz"]


def test_voxels_without_a_value_become_black(tmp_path):
    data = scan(1).astype(np.float32)
    data[3:5, 4, 5], data[0, 0, 0] = np.nan, np.inf
    a, b = save(tmp_path / "a.nii.gz", data), save(tmp_path / "b.nii.gz", scan(2).astype(np.float32))
    image, pair = fused(a, b, tmp_path / "out.nii.gz")
    assert np.isfinite(image.get_fdata()).all()
    assert np.allclose(image.get_fdata()[3:5, 4, 5], unit(scan(2))[3:5, 4, 5] / 2, atol=1e-6)
    assert any("3 voxels without a value" in line for line in pair.told())


def test_colours_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    stored = rgb.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    a = save(tmp_path / "a.nii.gz", grey.astype(np.float32), cal_max=255.0, cal_min=0.0)
    b = save(tmp_path / "b.nii.gz", stored)
    image, _ = fused(a, b, tmp_path / "out.nii.gz", value_range="auto")
    found = np.asarray(image.dataobj)
    found = np.stack([found[channel] for channel in "RGB"], -1).astype(int)
    assert np.abs(found - rgb).max() <= 1  # the luminance stays, and so do the colours
    large = np.diag([3.0, 3, 4, 1])
    smaller = save(tmp_path / "c.nii.gz", scan(3).astype(np.float32), large)
    image, _ = fused(smaller, b, tmp_path / "out.nii.gz")
    assert image.get_data_dtype().names == ("R", "G", "B")
    series = read_dicom(slices_of(tmp_path / "pet", np.moveaxis(rgb, 2, 0)))  # (slices, rows, columns, 3)
    assert series.colour
    assert np.array_equal(series.data, np.moveaxis(rgb, 2, 0).transpose(2, 1, 0, 3))


def test_scaled_integers_and_units(tmp_path):
    data = scan(1)
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1]))
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "scaled.nii.gz")
    volume = read_nifti(tmp_path / "scaled.nii.gz")
    assert volume.data.dtype == np.int16
    assert np.array_equal(volume.scaled(volume.data), nib.load(tmp_path / "scaled.nii.gz").get_fdata())
    metres = nib.Nifti1Image(data.astype(np.float32), np.diag([0.002, 0.002, 0.003, 1]))
    metres.header.set_xyzt_units("meter")
    nib.save(metres, tmp_path / "metres.nii.gz")
    _, pair = fused(tmp_path / "scaled.nii.gz", tmp_path / "metres.nii.gz", tmp_path / "out.nii.gz")
    assert pair.same


def test_one_slice(tmp_path):
    a, b = (save(tmp_path / f"{n}.nii.gz", scan(n, (20, 24, 3))[:, :, 1:2].astype(np.float32)) for n in (1, 2))
    image, _ = fused(a, b, tmp_path / "out.nii.gz")
    assert image.shape == (20, 24, 1)
    with pytest.raises(UserError, match="choose --axis axial"):
        fused(a, b, tmp_path / "none.nii.gz", axis="coronal")


# -------------------------------------------------------------------------------------------------------------- ranges


def test_ranges(tmp_path):
    data = np.arange(SHAPE[0] * SHAPE[1] * SHAPE[2], dtype=np.float32).reshape(SHAPE) - 100
    volume = read_nifti(save(tmp_path / "a.nii", data))
    windowed = read_nifti(save(tmp_path / "b.nii", data, cal_min=10.0, cal_max=500.0))
    beside = read_nifti(save(tmp_path / "c.nii", data, cal_min=-300.0, cal_max=-200.0))

    def limits(text, one=volume):
        chosen = range_of(one, parsed(text)[0])
        return chosen.low, chosen.high

    assert limits("full") == (-100, data.max())
    assert limits("-20:35.5") == (-20, 35.5)
    assert limits("percentile:98") == pytest.approx(np.percentile(data, [2, 98]))
    assert limits("auto") == pytest.approx(np.percentile(data, [0.5, 99.5]))
    assert limits("auto", windowed) == (10, 500)
    assert limits("auto", beside) == pytest.approx(np.percentile(data, [0.5, 99.5]))
    assert parsed("auto, -160:240") == (Choice("auto"), Choice("limits", (-160, 240)))
    sparse = np.zeros(SHAPE, np.float32)
    sparse[3, 3, 3] = 5
    rare = read_nifti(save(tmp_path / "d.nii", sparse))
    assert limits("auto", rare) == (0, 5)
    with pytest.raises(UserError, match=r"percentiles of .* are equal"):
        limits("percentile:99", rare)
    with pytest.raises(UserError, match="No value"):
        limits("90000:90001")
    for text in (
        "",
        "5:5",
        "6:5",
        "1e400:2",
        "nan:1",
        "percentile:50",
        "percentile:101",
        "low:high",
        "auto,auto,auto",
        "5",
    ):
        with pytest.raises(UserError, match="value range"):
            parsed(text)


def test_one_range_for_all_slices(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    data += np.arange(SHAPE[2])
    a, b = save(tmp_path / "a.nii", data), save(tmp_path / "b.nii", data * 2)
    image, _ = fused(a, b, tmp_path / "out.nii")
    assert np.allclose(image.get_fdata(), unit(data), atol=1e-6)  # a range of its own would make each slice uniform


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def scans(tmp_path):
    """A folder with two NIfTI files of the same grid, a coarse one, and a DICOM series."""
    affine = np.diag([-2.0, 2, 3, 1])
    save(tmp_path / "mri.nii.gz", scan(1, (40, 40, 18)).astype(np.int16), affine)
    save(tmp_path / "pet.nii.gz", scan(2, (40, 40, 18), 3.0).astype(np.float32), affine)
    save(tmp_path / "ct.nii.gz", scan(3, (20, 20, 18)).astype(np.int16), np.diag([-4.0, 4, 3, 1]))
    slices_of(tmp_path / "CT", scan(3, (18, 40, 40)).astype(np.int16), spacing=(2.0, 2.0), intercept=-400.0)
    return tmp_path


def test_examples_of_the_page(scans, mmfuse, monkeypatch):
    monkeypatch.chdir(scans)
    page = (ROOT / "docs/how-to/fuse-volumes.md").read_text(encoding="utf-8")
    lines = [line for block in page.split("```sh\n")[1:] for line in block.split("```")[0].splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("mmfuse ")]
    assert len(commands) > 5
    for words in commands:
        code, out, err = mmfuse(*words[1:])
        assert code == 0, (words, err)
        assert "Not for diagnosis" in err
        assert "fused volume: " in out
        image = nib.load(words[4])
        assert 0 < image.get_fdata().std() < 1


def test_wrong_commands_leave_nothing(scans, mmfuse, image):
    from mmfuse.data.images import write_image

    write_image(scans / "photo.png", image(1))
    (scans / "empty").mkdir()
    before = sorted(scans.rglob("*"))
    mri, pet = scans / "mri.nii.gz", scans / "pet.nii.gz"
    for words, expected in (
        ((mri, pet, "out"), "a name ending in"),
        ((mri, pet, "out.png"), "a name ending in"),
        ((mri, scans / "photo.png", "out.nii.gz"), "is not a volume"),
        ((mri, scans / "empty", "out.nii.gz"), "is not a volume"),
        ((mri, scans / "absent.nii.gz", "out.nii.gz"), "Volume not found"),
        ((mri, mri, "out.nii.gz"), "given twice"),
        ((mri, pet, pet), "overwrite"),
        ((mri, pet, "out.nii.gz", "--recursive"), "--recursive has no effect"),
        ((mri, pet, "out.nii.gz", "--range", "9:1"), "value range"),
        ((scans / "photo.png", scans / "photo.png", "out", "--axis", "axial"), "--axis has no effect"),
    ):
        named = [scans / word if isinstance(word, str) and word.startswith("out") else word for word in words]
        code, _, err = mmfuse("fuse", *named, "--method", "average")
        assert code == 2, (words, err)
        assert expected in err
        assert "Traceback" not in err
    assert sorted(scans.rglob("*")) == before


def test_missing_packages_are_said(scans, mmfuse, monkeypatch):
    monkeypatch.setattr("mmfuse.volumes.kinds.PACKAGES", ("nibabel", "no_such_package"))
    code, _, err = mmfuse("fuse", scans / "mri.nii.gz", scans / "pet.nii.gz", scans / "out.nii.gz")
    assert code == 2
    assert "no no_such_package" in err
    assert "mmfuse[medical]" in err


def test_what_is_a_volume(scans, image):
    from mmfuse.data.images import write_image

    assert is_volume(scans / "mri.nii.gz")
    assert is_volume(scans / "CT")
    shutil.copy(scans / "mri.nii.gz", scans / "unnamed")
    assert is_volume(scans / "unnamed")
    shutil.copy(scans / "CT/000.dcm", scans / "IM000")
    assert is_volume(scans / "IM000")
    write_image(scans / "images/1.png", image(1))
    shutil.copy(scans / "CT/000.dcm", scans / "images/1.dcm")
    assert not is_volume(scans / "images")
