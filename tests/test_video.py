"""Films are fused frame by frame: kinds of films, times, sound, colours, wrong inputs, stops."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from conftest import ROOT
from mmfuse.data.films import FilmReader
from mmfuse.data.images import luminance, with_luminance, write_image
from mmfuse.video.fusing import fuse_films
from mmfuse.video.timing import match, read_film

HEIGHT, WIDTH, RATE = 48, 64, 25
AVERAGE = ("--method", "average")


def scene(seed):
    """A function of the frame's number that draws a smooth moving picture in colour."""

    def draw(number, height=HEIGHT, width=WIDTH):
        y, x = np.mgrid[:height, :width] / 16.0
        waves = [np.sin(x + number / 5 + seed), np.cos(y + seed), np.sin(x - y + number / 7)]
        return (128 + 60 * np.stack(waves, axis=2)).astype(np.uint8)

    return draw


def film(
    path, count=6, *, seed=0, height=HEIGHT, width=WIDTH, codec="libx264", kind="yuv420p", rate=RATE, stamps=None,
    sound=None, colours=None, pixel=None, grey=False, options=None, silence=2.0,
):  # fmt: skip
    """Write a film; `stamps` are times in thousandths of a second, `sound` is the codec of a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = Fraction(1, 1000) if stamps is not None else Fraction(1) / Fraction(rate)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={"crf": "8"} if "26" in codec else {})
        stream.width, stream.height, stream.pix_fmt = width, height, kind
        context = stream.codec_context
        context.time_base = stream.time_base = unit
        if "26" not in codec:
            context.bit_rate = 4_000_000
        if pixel is not None:
            context.sample_aspect_ratio = pixel
        if colours is not None:
            context.colorspace, context.color_range = colours
        tone = None if sound is None else container.add_stream(sound, rate=48000, layout="mono")
        how = {} if colours is None else {"dst_colorspace": colours[0], "dst_color_range": colours[1]}
        for number in range(count):
            pixels = scene(seed)(number, height, width)
            pixels = np.repeat(luminance(pixels)[..., None], 3, axis=2) if grey else pixels
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=kind, **how)
            frame.pts, frame.time_base = number if stamps is None else stamps[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            step = tone.codec_context.frame_size or 1024
            end = int(48000 * count / Fraction(rate)) if silence is None else int(48000 * silence)
            for begin in range(0, end, step):
                wave = np.sin(np.arange(begin, begin + step) / 20)[None]
                wave = (wave * 9000).astype(np.int16) if tone.codec_context.format.name == "s16" else wave.astype("f4")
                part = av.AudioFrame.from_ndarray(wave, format=tone.codec_context.format.name, layout="mono")
                part.sample_rate, part.pts, part.time_base = 48000, begin, Fraction(1, 48000)
                container.mux(tone.encode(part))
            container.mux(tone.encode())
    return path


def turn(path, a, b, c, d):
    """Change the matrix in the header of an MP4 film's track."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    matrix = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def frames(path):
    """The frames of a film as displayed, with their times in seconds."""
    found = read_film(path)
    with FilmReader() as reader:
        images = [reader.frame("a", path, number) for number in range(len(found.stamps))]
    return images, found.times


def sounds(path):
    """Time and content of each packet of a film's sound."""
    with av.open(str(path)) as container:
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in container.demux(audio=0) if p.size]


def mean_of(a, b):
    return with_luminance(b, (luminance(a).astype(float) + luminance(b)) / 2 / 255)


@pytest.fixture
def run(mmfuse):
    def command(*words, code=0):
        found, out, err = mmfuse(*words)
        assert found == code, (out, err)
        assert "Traceback" not in err
        return out, err

    return command


KINDS = [
    ("libx264", "yuv420p", ".mp4", ".mp4", {}),
    ("libx264", "yuv444p", ".mov", ".mkv", {"height": 37, "width": 51}),
    ("libx264", "yuvj420p", ".mkv", ".webm", {"height": 34, "width": 50}),
    ("libx265", "yuv420p", ".mp4", ".mov", {"rate": Fraction(30000, 1001)}),
    ("mpeg4", "yuv420p", ".avi", ".mp4", {"rate": 50}),
    ("mjpeg", "yuvj422p", ".avi", ".m4v", {"height": 47, "width": 63}),
    ("libvpx-vp9", "yuv420p", ".webm", ".webm", {"rate": 24}),
    ("ffv1", "bgr0", ".mkv", ".mp4", {"height": 19, "width": 23}),
    ("ffv1", "gray", ".mkv", ".mkv", {"rate": 5}),
    ("libx264", "yuv422p", ".mp4", ".webm", {"height": 17, "width": 16}),
]


@pytest.mark.parametrize(("codec", "kind", "suffix", "target", "how"), KINDS)
def test_many_kinds_of_films(run, tmp_path, codec, kind, suffix, target, how):
    a = film(tmp_path / f"ir{suffix}", seed=1, codec=codec, kind=kind, **how)
    b = film(tmp_path / "vi.mp4", seed=2, kind="yuv444p", **how)
    for path in (tmp_path / f"out{target}", tmp_path / f"again{target}"):
        out, _ = run("fuse", a, b, path, *AVERAGE)
        assert "6 frames" in out
    fused, times = frames(path)
    ir, _ = frames(a)
    vi, wanted = frames(b)
    assert len(fused) == 6
    assert np.abs(times - wanted).max() < 0.0011
    for first, second, result in zip(ir, vi, fused, strict=True):
        assert np.abs(result.astype(int) - mean_of(first, second)).mean() < 6
        assert np.abs(luminance(result).astype(int) - luminance(mean_of(first, second))).mean() < 2.5
    first_time, _ = frames(tmp_path / f"out{target}")  # H.264's encoder does not give equal bytes each time
    for first, second in zip(first_time, fused, strict=True):
        assert np.abs(first.astype(int) - second).mean() < 4
    assert not [p.name for p in tmp_path.iterdir() if p.suffix == ".part"]


@pytest.mark.parametrize("target", [".mp4", ".mkv", ".webm"])
def test_changing_frame_rates_are_kept(run, tmp_path, target):
    stamps = [0, 40, 80, 240, 250, 400, 1400, 1433]
    a = film(tmp_path / "ir.mp4", 8, seed=1, stamps=stamps)
    b = film(tmp_path / "vi.mkv", 8, seed=2, stamps=stamps)
    run("fuse", a, b, tmp_path / f"out{target}", *AVERAGE)
    assert np.abs(frames(tmp_path / f"out{target}")[1] * 1000 - stamps).max() < 1.1
    c = film(tmp_path / "other.mkv", 8, seed=2, stamps=[0, 40, 80, 240, 260, 400, 1400, 1433])
    assert "frame 4" in run("fuse", a, c, tmp_path / "no.mp4", *AVERAGE, code=2)[1]


@pytest.mark.parametrize("matrix", [(0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)])
def test_turned_films_are_fused_as_displayed(run, tmp_path, matrix):
    ir = turn(film(tmp_path / "ir.mp4", seed=1), *matrix)
    vi = turn(film(tmp_path / "vi.mp4", seed=2, pixel=Fraction(4, 3)), *matrix)
    run("fuse", ir, vi, tmp_path / "out.mp4", *AVERAGE)
    fused, _ = frames(tmp_path / "out.mp4")
    a, b = frames(ir)[0], frames(vi)[0]
    assert fused[0].shape == b[0].shape
    assert np.abs(fused[3].astype(int) - mean_of(a[3], b[3])).mean() < 6
    with av.open(str(tmp_path / "out.mp4")) as container:
        expected = Fraction(3, 4) if matrix[0] == 0 else Fraction(4, 3)
        assert container.streams.video[0].sample_aspect_ratio == expected
        assert next(container.decode(video=0)).rotation == 0
    if matrix[0] == 0:
        straight = film(tmp_path / "straight.mp4", seed=2)
        assert "differ in size" in run("fuse", ir, straight, tmp_path / "no.mp4", *AVERAGE, code=2)[1]


def test_frames_are_matched_by_time_where_that_is_exact(run, tmp_path):
    ir = film(tmp_path / "ir.mp4", 10, seed=1, rate=25)
    fast = film(tmp_path / "fast.mp4", 20, seed=2, rate=50)
    _, err = run("fuse", ir, fast, tmp_path / "1.mp4", *AVERAGE)
    assert f"left out: 10 frames of {fast}" in err
    fused, times = frames(tmp_path / "1.mp4")
    assert np.allclose(times, np.arange(10) / 25)
    a, b = frames(ir)[0], frames(fast)[0]
    assert np.abs(fused[7].astype(int) - mean_of(a[7], b[14])).mean() < 4
    _, err = run("fuse", fast, ir, tmp_path / "2.mp4", *AVERAGE)
    assert f"left out: 10 frames of {fast}" in err
    slow = film(tmp_path / "slow.mp4", 10, seed=2, rate=Fraction(24))
    assert "same times" in run("fuse", ir, slow, tmp_path / "no.mp4", *AVERAGE, code=2)[1]
    assert "same times" in run("fuse", ir, slow, tmp_path / "no.mp4", *AVERAGE, "--allow-missing", code=2)[1]
    longer = film(tmp_path / "longer.mp4", 11, seed=2, sound="aac")
    assert "differ in length" in run("fuse", ir, longer, tmp_path / "no.mp4", *AVERAGE, code=2)[1]
    _, err = run("fuse", ir, longer, tmp_path / "3.mp4", *AVERAGE, "--allow-missing")
    assert f"left out: 1 frame of {longer}" in err
    assert len(frames(tmp_path / "3.mp4")[0]) == 10
    assert sounds(tmp_path / "3.mp4")[-1][0] <= 0.4  # the sound ends with the last frame
    assert not (tmp_path / "no.mp4").exists()


@pytest.mark.parametrize(
    ("codec", "suffix"), [("aac", ".mp4"), ("aac", ".mkv"), ("libopus", ".webm"), ("flac", ".mkv")]
)
def test_the_sound_is_copied(run, tmp_path, codec, suffix):
    ir = film(tmp_path / "ir.mp4", 12, seed=1)
    vi = film(tmp_path / f"vi{suffix}", 12, seed=2, sound=codec, codec="libvpx-vp9" if suffix == ".webm" else "libx264")
    for a, b in ((ir, vi), (vi, ir)):
        target = tmp_path / f"out{suffix}"
        run("fuse", a, b, target, *AVERAGE)
        kept, there = sounds(target), sounds(vi)
        assert [content for _, content in kept] == [content for _, content in there]
        assert np.abs(np.array([t for t, _ in kept]) - [t for t, _ in there]).max() < 0.0021
        assert len(frames(target)[0]) == 12


def test_sound_that_the_container_cannot_hold(run, tmp_path):
    ir = film(tmp_path / "ir.mp4", seed=1)
    vi = film(tmp_path / "vi.mp4", seed=2, sound="aac")
    err = run("fuse", ir, vi, tmp_path / "out.webm", *AVERAGE, code=2)[1]
    assert "cannot hold the sound" in err
    assert "aac" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ir.mp4", "vi.mp4"]


@pytest.mark.parametrize("colours", [(1, 1), (5, 1), (1, 2), (5, 2), (9, 1)])
def test_colours_are_those_of_the_visible_film(run, tmp_path, colours):
    """Matrices of BT.709, BT.601 and BT.2020; limited and full range."""
    ir = film(tmp_path / "ir.mp4", seed=1, grey=True)
    vi = film(tmp_path / "vi.mp4", seed=2, colours=colours, kind="yuv444p")
    drawn = scene(2)(2)
    b = frames(vi)[0]
    assert np.abs(b[2].astype(int) - drawn).mean() < 4  # read by its own matrix and range
    run("fuse", ir, vi, tmp_path / "out.mp4", *AVERAGE)
    fused = frames(tmp_path / "out.mp4")[0]
    expected = mean_of(frames(ir)[0][2], drawn)
    assert np.abs(fused[2].astype(int) - expected).mean() < 5
    assert np.abs(fused[2].astype(int).mean((0, 1)) - expected.mean((0, 1))).max() < 3
    assert read_film(tmp_path / "out.mp4").colours[:2] == (colours[0], 1)


def test_qualities(run, tmp_path):
    ir, vi = film(tmp_path / "ir.mp4", seed=1), film(tmp_path / "vi.mp4", seed=2)
    for suffix in (".mp4", ".webm"):
        sizes = []
        for quality in ("small", "high"):
            run("fuse", ir, vi, tmp_path / f"{quality}{suffix}", *AVERAGE, "--quality", quality)
            sizes.append((tmp_path / f"{quality}{suffix}").stat().st_size)
        assert sizes[0] < sizes[1]
    run("fuse", ir, vi, tmp_path / "all.mkv", *AVERAGE, "--quality", "lossless")
    for first, second, fused in zip(*(frames(path)[0] for path in (ir, vi, tmp_path / "all.mkv")), strict=True):
        assert np.abs(fused.astype(int) - mean_of(first, second)).max() <= 1
    assert "without loss" in run("fuse", ir, vi, tmp_path / "all.mp4", *AVERAGE, "--quality", "lossless", code=2)[1]
    write_image(tmp_path / "a.png", scene(1)(0))
    write_image(tmp_path / "b.png", scene(2)(0))
    images = (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png")
    assert "no effect" in run("fuse", *images, *AVERAGE, "--quality", "high", code=2)[1]


def test_sizes_can_be_made_equal(run, tmp_path):
    ir, vi = film(tmp_path / "ir.mp4", seed=1), film(tmp_path / "vi.mp4", seed=2, height=96, width=128)
    assert "differ in size" in run("fuse", ir, vi, tmp_path / "no.mp4", *AVERAGE, code=2)[1]
    for side, shape in (("a", (48, 64)), ("b", (96, 128))):
        run("fuse", ir, vi, tmp_path / f"{side}.mp4", *AVERAGE, "--resize-to", side)
        assert frames(tmp_path / f"{side}.mp4")[0][0].shape[:2] == shape


def test_the_shipped_network_fuses_films(run, tmp_path):
    ir, vi = film(tmp_path / "ir.mp4", 2, seed=1), film(tmp_path / "vi.mp4", 2, seed=2)
    _, err = run("fuse", ir, vi, tmp_path / "out.mp4")
    assert "weights: lkc_ivif" in err
    assert len(frames(tmp_path / "out.mp4")[0]) == 2


def wrong_inputs(folder):
    """Name, the two inputs, the output and what the message says."""
    good = film(folder / "good.mp4", seed=1)
    other = film(folder / "other.mp4", seed=2)
    (folder / "text.mp4").write_text("#EXTM3U\nhttp://localhost/x.ts\n")
    (folder / "empty.mkv").write_bytes(b"")
    for suffix, options in ((".mp4", None), (".mov", {"movflags": "faststart"}), (".mkv", None), (".avi", None)):
        whole = film(folder / f"whole{suffix}", 40, codec="mpeg4", options=options)
        for part in (3, 60, 85 if suffix == ".avi" else 95):  # at its end, an AVI film has an index, which it can lack
            (folder / f"cut{part}{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size * part // 100])
            yield folder / f"cut{part}{suffix}", whole, "out.mp4", "film"
            yield whole, folder / f"cut{part}{suffix}", "out.mp4", "film"
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        part.sample_rate = 48000
        container.mux(stream.encode(part))
        container.mux(stream.encode())
    write_image(folder / "image.png", scene(0)(0))
    write_image(folder / "image2.png", scene(1)(0))
    (folder / "renamed.mp4").write_bytes((folder / "image.png").read_bytes())
    (folder / "d").mkdir()
    deep = film(folder / "deep.mp4", kind="yuv420p10le")
    yield folder / "text.mp4", good, "out.mp4", "unreadable film"
    yield good, folder / "empty.mkv", "out.mp4", "unreadable film"
    yield good, folder / "sound.mp4", "out.mp4", "contains no film"
    yield good, film(folder / "one.mp4", 1), "out.mp4", "too few frames"
    yield good, film(folder / "large.mp4", width=80), "out.mp4", "differ in size"
    yield good, film(folder / "long.mp4", 7), "out.mp4", "differ in length"
    yield good, film(folder / "rate.mp4", rate=30), "out.mp4", "not shown at the same times"
    yield good, deep, "out.mp4", "10 bits"
    yield folder / "image.png", good, "out.mp4", "only be fused with a film"
    yield good, folder / "image.png", "out.png", "Cannot write the fused film"
    yield folder / "image.png", folder / "image2.png", "out.mp4", "only be fused with a film"
    yield folder / "renamed.mp4", good, "out.mp4", "unreadable film"
    yield folder / "d", good, "out.mp4", "only be fused with a film"
    yield good, folder / "d", "out.mp4", "only be fused with a film"
    yield good, folder / "none.mp4", "out.mp4", "not found"
    yield good, good, "out.mp4", "same"
    yield good, other, "good.mp4", "overwrite"
    yield good, other, "out.avi", "Cannot write"
    yield good, other, "out.gif", "Cannot write"
    yield good, other, "out", "Cannot write"
    yield good, other, "d", "Cannot write"
    yield good, other, "image.png/out.mp4", "Cannot write"


def test_wrong_inputs_give_one_error_and_no_file(run, tmp_path):
    cases = list(wrong_inputs(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for a, b, out, said in cases:
        err = run("fuse", a, b, tmp_path / out, *AVERAGE, code=2)[1]
        assert len({line for line in err.splitlines() if line.startswith("error:")}) == 1, (a, b, err)
        assert said in err, (a, b, out, err)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, (a, b)
    good, other = tmp_path / "good.mp4", tmp_path / "other.mp4"
    for words in (("--recursive",), ("--weights", "x", *AVERAGE), ("--task", "ivif", *AVERAGE)):
        run("fuse", good, other, tmp_path / "out.mp4", *words, *(() if "average" in words else AVERAGE), code=2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_damage_or_a_stop_in_the_middle_leaves_no_file_and_an_earlier_one_whole(run, tmp_path):
    rough = np.random.default_rng(0).integers(0, 256, (40, HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(tmp_path / "vi.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for pixels in rough:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    ir, vi, out = film(tmp_path / "ir.mp4", 40, seed=1), tmp_path / "vi.mp4", tmp_path / "out.mp4"
    run("fuse", ir, vi, out, *AVERAGE)
    kept = out.read_bytes()
    a, b = read_film(ir), read_film(vi)
    for stop in (KeyboardInterrupt, SystemExit, MemoryError):
        seen = []

        def fail(first, second, seen=seen, stop=stop):
            seen.append(first)
            if len(seen) == 20:
                raise stop
            return second

        with pytest.raises(stop):
            fuse_films(a, b, match(a, b), out, fail)
        assert len(seen) == 20
    content = bytearray(vi.read_bytes())
    content[len(content) // 2 :][:3000] = bytes(3000)
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    vi.write_bytes(content)
    assert "unreadable film" in run("fuse", ir, vi, out, *AVERAGE, code=2)[1]
    assert out.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ir.mp4", "out.mp4", "vi.mp4"]


def test_memory_does_not_grow_with_the_film(tmp_path):
    size = {"height": 240, "width": 320, "codec": "mpeg4"}
    a, b = (read_film(film(tmp_path / f"{name}.mp4", 160, seed=seed, **size)) for seed, name in enumerate("ab"))
    used = []

    def fuse(_first, second):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * os.sysconf("SC_PAGE_SIZE"))
        return second

    fuse_films(a, b, match(a, b), tmp_path / "out.mp4", fuse)
    assert len(used) == 160
    assert max(used[80:]) - used[79] < 40 * 240 * 320 * 3  # half of what the frames fused in between would take


def test_the_commands_of_the_page(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "infrared.mp4", 3, seed=1)
    film(tmp_path / "visible.mp4", 3, seed=2)
    page = (ROOT / "docs/how-to/fuse-films.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[:2] for line in block.splitlines()]
    assert len(lines) > 5
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "mmfuse"
        if "average.mkv" in line:
            for name in ("average.mkv", "laplacian.mkv"):
                shutil.copy("fused.mkv", name)
        run(*words)
    assert {
        "fused.mp4",
        "fused.mkv",
        "short.mp4",
        "fused.webm",
        "steady.json",
        "systems.csv",
        "systems.average.json",
    } <= {path.name for path in tmp_path.iterdir()}
