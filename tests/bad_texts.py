"""The second half of the corpus of bad inputs: parameters, catalogs, labels, tables of scores."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from bad_inputs import Bad, Call, pixels, png_bytes, saved
from mmfuse.data.catalog import dataset, load_catalog
from mmfuse.data.packs import Pack, write_pack
from mmfuse.data.reading import find_pairs, read_pair
from mmfuse.downstream.folds import read_folds
from mmfuse.downstream.labels import check_labels
from mmfuse.downstream.results import read_detections, read_masks
from mmfuse.files.writing import read_manifest
from mmfuse.metrics import tables as metric_tables
from mmfuse.reporting.dataset_cards import card
from mmfuse.reporting.figures import read_history
from mmfuse.reporting.provenance import read_run
from mmfuse.reporting.published import read as read_published
from mmfuse.reporting.scores import grouped, read_scores
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System

ROOT = Path(__file__).parents[1]
CATALOG_SCHEMA = ROOT / "workflow/schemas/catalog.schema.yaml"


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


# -------------------------------------------------------------------------------------------------------- YAML


@cache
def good_parameters() -> dict[str, Any]:
    values: dict[str, Any] = yaml.load(
        (ROOT / "workflow/configs/demo.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader
    )
    return values


def study(content: str | bytes) -> Callable[[Path], Call]:
    """A project of a schema and these parameters."""

    def make(folder: Path) -> Call:
        schema = folder / "workflow/schemas/params.schema.yaml"
        written(schema, (ROOT / schema.relative_to(folder)).read_bytes())
        text = content.replace("MARKER", str(folder / "code_was_run")) if isinstance(content, str) else content
        path = written(folder / "params.yaml", text)
        return lambda: load_parameters(path)

    return make


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Call]:
    values = copy.deepcopy(good_parameters())
    change(values)
    return study(yaml.dump(values, Dumper=yaml.CSafeDumper, sort_keys=False))


OBJECTS = (
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [MARKER]]",
    "!!python/object/apply:os.system ['touch MARKER']",
    "!!python/object/new:os.system ['touch MARKER']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:mmfuse.errors.UserError {}",
    "!!python/tuple [1, 2]",
    "!!python/bytes AAAA",
    "!tag:yaml.org,2002:python/none x",
    "!own {a: 1}",
)


def parameters() -> Iterator[Bad]:
    no_yaml = r"params\.yaml is not valid YAML"
    for number, text in enumerate(OBJECTS):
        yield Bad(
            f"yaml object {number}", study(f"study: {text}\n"), f"{no_yaml}(.|\n)*could not determine a constructor"
        )
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    yield Bad("yaml bomb", study(bomb), f"{no_yaml}(.|\n)*expand to more than")
    merged = "a: &a {x: 1}\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} {{p: *{chr(97 + n)}, q: *{chr(97 + n)}, r: *{chr(97 + n)}}}\n"
        for n in range(20)
    )
    yield Bad("yaml bomb of maps", study(merged), f"{no_yaml}(.|\n)*expand to more than")
    for text in ("a: &a [*a]", "&a {k: *a}", "a: &a {b: {c: [1, *a]}}"):
        yield Bad(f"yaml in itself {text!r}", study(text), f"{no_yaml}(.|\n)*contains it")
    for text in ("a: 1\na: 2", "x: {b: 1, c: 2, b: 3}", "x:\n  - {k: 1, k: 1}"):
        yield Bad(f"yaml twice {text!r}", study(text), f"{no_yaml}(.|\n)*occurs twice(.|\n)*line \\d")
    for what, text in {
        "lists": "[" * 500, "closed lists": "[" * 500 + "]" * 500, "maps": "{a: " * 1000 + "}" * 1000,
        "blocks": "\n".join(" " * n + "a:" for n in range(600)), "very many lists": "[" * 100_000,
        "closed lists, many of them": "[" * 100_000 + "]" * 100_000, "very many maps": "{a: " * 100_000,
        "compact lists": "- " * 100_000, "compact keys": "? " * 100_000,
    }.items():  # fmt: skip
        yield Bad(f"yaml of deep {what}", study(text), f"{no_yaml}(.|\n)*(nested too deeply|expected)")
    for what, text in {
        "tab": "study:\n\tname: x", "tab after a colon": "study:\tx",
        "no end": "study: [", "quote": "study: 'x", "indent": "a: 1\n b: 2", "at": "a: @x",
        "percent": "a: %x", "two documents": "a: 1\n---\nb: 2\n", "no alias": "a: *b", "unhashable": "{[1]: 2}",
        "date": "a: 2026-13-45", "digits": f"a: {'9' * 5000}", "control": "a: \x07", "colon": "a: b: c",
        "base": "a: !!int x", "float": "a: !!float x", "binary": "a: !!binary 'a'",
    }.items():  # fmt: skip
        yield Bad(f"yaml {what}", study(text), no_yaml)
    for what, data in {
        "utf-16": "study: x".encode("utf-16-le"), "latin": b"study: caf\xe9", "zeros": bytes(40),
        "png": png_bytes(2, 2),        "surrogate": b"a: \xed\xa0\x80",
    }.items():  # fmt: skip
        yield Bad(f"yaml in {what}", study(data), no_yaml)
    yield Bad("yaml of 17 MB", study(b"#" * (17 << 20)), "is too large")
    for what, text in {"nothing": "", "list": "[1]", "text": "hello", "number": "5", "null": "~"}.items():
        yield Bad(f"yaml: {what} at the top", study(text), r"\(top level\) is not valid(.|\n)*type: object")
    for what, text in {"number": "{1: 2}", "nothing": "{~: 2}", "truth": "{yes: 2}", "inner": "a: {1.5: 2}"}.items():
        yield Bad(f"yaml with a {what} as key", study(text), "is not text(.|\n)*in quotes")
    yield from wrong_values()


def wrong_values() -> Iterator[Bad]:
    def fusion(values: dict[str, Any]) -> dict[str, Any]:
        part: dict[str, Any] = values["methods"]["mma_unet"]["parts"]["fusion"]
        return part

    wrong = (
        (lambda v: v["train"].update(save_evry=1), "unknown key 'save_evry'(.|\n)*did you mean 'save_every'"),
        (lambda v: v.update(evil=1), "unknown key 'evil'"),
        (lambda v: v["train"].pop("save_every"), "'save_every' is a required property"),
        (lambda v: v["train"].update(save_every="often"), "train.save_every is not valid(.|\n)*integer"),
        (lambda v: fusion(v).update(batch=10**400), "fusion.batch is too large"),
        (lambda v: fusion(v).update(batch=-1), "parts.fusion.batch"),
        (lambda v: fusion(v).update(learning_rate="1e-3"), "write 0.001"),
        (lambda v: fusion(v).update(learning_rate=float("nan")), "learning_rate is not a finite number"),
        (lambda v: v["evaluate"].update(metrics=[float("inf")]), "is not a finite number"),
        (lambda v: v["study"].update(name="../evil"), "study.name"),
        (lambda v: v["study"].update(name="<script>alert(1)</script>"), "study.name"),
        (lambda v: v["study"].update(seeds=["0; rm -rf /"]), "study.seeds"),
        (lambda v: v["study"]["systems"][0].update(method="../../evil"), "study.systems|unknown|not valid"),
        (lambda v: v["study"]["systems"].append({1: 2}), "is not text"),
        (lambda v: v["methods"]["laplacian"]["network"].update(size=3), "no parameter may be called 'size'"),
        (lambda v: v["study"]["tasks"]["ivif"].update(test="synthetic_road"), "study.tasks.ivif.test"),
    )  # fmt: skip
    for number, (change, says) in enumerate(wrong):
        yield Bad(f"parameters {number}: {says}", changed(change), says)


ENTRY: dict[str, Any] = {
    "title": "made up", "task": "ivif", "roles": {"a": "infrared", "b": "visible"}, "common_size": None,
    "colour": {"a": "grey", "b": "grey"}, "value_range": [0, 255], "licence": "none", "citation": "none",
    "mirror": "nowhere", "manifest": None, "defects": [],
    "layout": {"a": "a/{name}.png", "b": "b/{name}.png"}, "splits": {"by": "all", "to": "test"},
    "sources": [{"manual": "https://example.org/", "instructions": "none", "archives": {"x.zip": "."}}],
}  # fmt: skip


def catalogs() -> Iterator[Bad]:
    def catalog(**changes: Any) -> Callable[[Path], Call]:
        def make(folder: Path) -> Call:
            path = written(folder / "catalog.yaml", yaml.safe_dump({"datasets": {"madeup": ENTRY | changes}}))
            return lambda: load_catalog(path, schema=CATALOG_SCHEMA)

        return make

    for layout in ("../{name}.png", "/etc/{name}", "a/../../{name}.png", "a\\{name}.png", "", 5):
        says = r": datasets\.madeup\.layout\.a"
        yield Bad(f"layout {layout!r}", catalog(layout={"a": layout, "b": "b/{name}.png"}), says)
    for source in (
        {"generator": "os"}, {"generator": "mmfuse.datasets.../os"}, {"git": "ext::sh -c touch"}, {"git": "file:///etc"},
        {"git": "--upload-pack=evil"}, {"https": "http://example.org/x.zip"}, {"https": "file:///etc/passwd"}, {},
        {"https": "https://example.org/x.zip", "sha256": "abc"}, {"https": "https://example.org/x.zip", "into": "../x"},
    ):  # fmt: skip
        yield Bad(f"source {source!r}", catalog(sources=[source]), r": datasets\.madeup\.sources")
    yield Bad("written above", catalog(written={"../evil": ["x"]}), r": datasets\.madeup\.written")
    yield Bad("manifest not there", catalog(manifest="manifests/none.sha256"), "contradicts itself|: datasets")
    for text in OBJECTS[:3]:
        make = lambda folder, text=text: partial(load_catalog, written(folder / "c.yaml", f"x: {text}"))  # noqa: E731
        yield Bad(f"catalog with {text[:30]}", make, "not valid YAML")
    named = partial(dataset, path=ROOT / "data/catalog.yaml", schema=CATALOG_SCHEMA)
    for name in ("../evil", "msr", "", "msrs\n"):
        yield Bad(f"dataset {name!r}", lambda _, name=name: lambda: named(name), "The catalog has no dataset")
    for line in ("x", f"{'0' * 63}  a.png", f"{'0' * 64} a.png", f"{'0' * 64}  ", "\udcff" * 70):
        make = lambda folder, line=line: partial(  # noqa: E731
            read_manifest, written(folder / "m", line.encode("utf-8", "surrogateescape"))
        )
        yield Bad(f"checksum line {ascii(line)[:80]}", make, "line 1 is not a checksum line")


# ------------------------------------------------------------------------------------------------------ labels


def labelled(kind: str, content: bytes, *, form: str = "yolo", goal: str = "") -> Callable[[Path], Call]:
    """One pair with a label file; with a goal, the labels are also checked as before a detector is trained."""
    suffix = {"mask": ".png", "yolo": ".txt", "voc": ".xml"}["mask" if kind == "mask" else form]
    classes = {"classes": {"0": "nothing", "1": "car"}} | ({} if kind == "mask" else {"format": form})
    layout = ENTRY["layout"] | {kind: f"{kind}/{{name}}{suffix}"}

    def make(folder: Path) -> Call:
        entry = ENTRY | {"layout": layout, "labels": {kind: classes}}
        path = written(folder / "catalog.yaml", yaml.safe_dump({"datasets": {"madeup": entry}}))
        for side in ("a", "b"):
            written(folder / f"raw/{side}/one.png", saved(Image.fromarray(pixels()), "PNG"))
        written(folder / f"raw/{kind}/one{suffix}", content)

        def call() -> None:
            entry = load_catalog(path, schema=CATALOG_SCHEMA)["madeup"]
            sample = read_pair(entry, find_pairs(entry, folder / "raw").pairs[0])
            write_pack(folder / "pack.safetensors", [sample])
            if goal:
                check_labels(entry, goal, Pack(folder / "pack.safetensors"), ["one"])

        return call

    return make


def labels() -> Iterator[Bad]:
    ids = np.zeros((24, 30), np.uint8)
    whole = saved(Image.fromarray(ids), "PNG")
    for what, content, says in (
        ("nothing", b"", "Damaged or unreadable image"),
        ("cut", whole[: len(whole) // 2], "Damaged or unreadable image"),
        ("gif", saved(Image.fromarray(ids), "GIF"), "This kind of file is not read(.|\n)*GIF"),
        ("huge", png_bytes(60000, 60000, data=b""), "is too large"),
        ("other size", saved(Image.fromarray(ids[1:]), "PNG"), "differs in size from its images"),
        ("16 bits", saved(Image.fromarray(ids.astype(np.uint16) + 261), "PNG"), "not class ids(.|\n)*261"),
        ("colours", saved(Image.fromarray(pixels(channels=3)), "PNG"), "contains colours(.|\n)*catalog.yaml"),
        ("animation", saved(Image.fromarray(ids), "PNG", save_all=True, append_images=[Image.fromarray(ids + 1)]),
         "one still image"),
    ):  # fmt: skip
        yield Bad(f"mask: {what}", labelled("mask", content), says)
    unknown = saved(Image.fromarray(ids + 7), "PNG")
    yield Bad("mask: unknown id", labelled("mask", unknown, goal="segment"), "unknown ids 7")
    for line in ("1 0.5 0.5 0.1", "1 0.5 0.5 0.1 0.1 9 9", "car 0.5 0.5 0.1 0.1", "1.5 0.5 0.5 0.1 0.1", "1 a b c d",
                 "9" * 400 + " 0 0 1 1", "9" * 5000 + " 0 0 1 1", "9" * 40 + " 0.5 0.5 0.1 0.1", "1 nan 0.5 0.1 0.1",
                 "1 0.5 0.5 inf 0.1", "1 0.5 0.5 0.1 1_0", "1_0 0.5 0.5 0.1 0.1", "\u0661 0.5 0.5 0.1 0.1", "\x00",
                 "{}"):  # fmt: skip
        yield Bad(
            f"box {line[:30]!r} of {len(line)}", labelled("boxes", line.encode()), "Unreadable boxes(.|\n)*yolo format"
        )
    yield Bad("boxes not text", labelled("boxes", b"\xff\xfe\x00"), "Unreadable boxes")
    for line, says in (
        ("1 1.5 0.5 0.1 0.1", "outside"),
        ("1 0.5 0.5 0 0.1", "has no area"), ("1 0.5 0.5 -0.1 0.1", "has no area"),
        ("7 0.5 0.5 0.1 0.1", "unknown class 7"),
        ("-1 0.5 0.5 0.1 0.1", "unknown class -1"),
    ):  # fmt: skip
        yield Bad(f"box {line!r}", labelled("boxes", line.encode(), goal="detect"), says)
    box = "<object><name>car</name><bndbox>{}</bndbox></object>"
    laughs = '<!DOCTYPE x [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    ) + "]><x>&j;</x>"  # fmt: skip
    for what, text in {
        "nothing": "", "cut": "<annotation><object>", "json": "{}", "bomb": laughs, "no box": "<a><object/></a>",
        "file": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><a><object><name>&e;</name></object></a>',
        "half a box": f"<a>{box.format('<xmin>1</xmin>')}</a>", "empty box": f"<a>{box.format('')}</a>",
        "class": "<a><object><name>ufo</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
        "</object></a>",
    }.items():  # fmt: skip
        yield Bad(f"voc: {what}", labelled("boxes", text.encode(), form="voc"), "Unreadable boxes(.|\n)*voc format")


# ------------------------------------------------------------------------------------------------------ tables

SYSTEM = System("average", "base", "ivif", 0)
CSV = "name,EN\nx,1.0\ny,3.0\n"
SUMMARY: dict[str, Any] = {
    "convention": "lkc_funet", "images": 2,
    "metrics": {"EN": {"definition": "en", "better": "higher", "convention": "lkc_funet", "mean": 2.0}},
}  # fmt: skip


def scores(table: str | bytes = CSV, summary: object = SUMMARY) -> Callable[[Path], Call]:
    def make(folder: Path) -> Call:
        written(folder / f"reports/scores/road/{SYSTEM.label}.csv", table)
        text = summary if isinstance(summary, (str, bytes)) else json.dumps(summary)
        written(folder / f"reports/scores/road/{SYSTEM.label}.json", text)
        return lambda: read_scores(folder, "road", SYSTEM)

    return make


def tables() -> Iterator[Bad]:
    again = "(.|\n)*run the stage `evaluate`"
    for what, table, says in (
        ("nothing", "", "without name"), ("cut in a row", CSV[:-5], "1 in row 2"),
        ("cut in a number", "name,EN\nx,1.0\ny,", "disagree on EN"),
        ("cut after a row", "name,EN\nx,1.0\n", "1 image"),
        ("other number", CSV.replace("3.0", "3.1"), "disagree on EN"),
        ("nan", CSV.replace("3.0", "nan"), "disagree on EN"), ("infinite", CSV.replace("3.0", "inf"), "disagree on EN"),
        ("text", CSV.replace("3.0", "high"), "not a number"), ("no names", CSV.replace("name", "id"), "without name"),
        ("other metric", CSV.replace("EN", "SD"), "without EN"),
        ("twice", "name,EN,EN\nx,1,1\ny,3,3\n", "each column once"),
        ("one image twice", CSV.replace("y", "x"), "an image twice"),
        ("more cells", CSV.replace("3.0", "3.0,4"), "3 in row 2"),
        ("quote", CSV.replace("x", '"x'), "CSV"), ("page", "<html>", "without name"),
    ):  # fmt: skip
        yield Bad(f"scores: {what}", scores(table), f"{says}")
    for what, data in {"utf-16": CSV.encode("utf-16"), "latin": b"name,EN\ncaf\xe9,1\n", "zeros": bytes(99)}.items():
        yield Bad(f"scores in {what}", scores(data), f"Damaged file|without name{again}")
    for what, text in {
        "nothing": "", "cut": json.dumps(SUMMARY)[:50], "list": "[1]", "null": "null", "deep": "[" * 100_000,
        "latin": b"\xff",
        "other keys": {"x": 1}, "metrics gone": {k: v for k, v in SUMMARY.items() if k != "metrics"},
        "metrics a list": SUMMARY | {"metrics": ["EN"]}, "metric a number": SUMMARY | {"metrics": {"EN": 1}},
        "mean a text": SUMMARY | {"metrics": {"EN": SUMMARY["metrics"]["EN"] | {"mean": "2"}}},
        "digits": '{"images": ' + "9" * 5000 + "}",
    }.items():  # fmt: skip
        yield Bad(f"summary: {what}", scores(summary=text), f"Damaged file{again}")
    yield Bad("summary not there", lambda f: partial(read_scores, f, "road", SYSTEM), "The report needs")

    def other_images(folder: Path) -> Call:
        one = scores()(folder)()
        two = scores(CSV.replace("y", "z"))(folder)()
        return lambda: grouped([one, two], "road")

    yield Bad("scores of other images", other_images, "cannot be put in one table(.|\n)*images")
    for what, text in {
        "nothing": "",
        "no name": "EN\n1\n",
        "text": "name,EN\nx,high\n",
        "short": "name,EN\nx\n",
        "zeros": bytes(9),
    }.items():
        make = lambda f, text=text: partial(metric_tables.read_scores, written(f / "s.csv", text))  # noqa: E731
        yield Bad(f"table: {what}", make, "the scores")
    for what, text in {"nothing": "", "cut": '{"stage": "tr', "list": "[]", "zeros": bytes(9)}.items():
        make = lambda f, text=text: partial(read_run, written(f / "run.json", text), "train", "x")  # noqa: E731
        yield Bad(f"record: {what}", make, "Damaged file(.|\n)*run the stage `train`")
    for what, text in {
        "nothing": "",
        "cut": "step,lr,train/total,val/total\n1,0.1",
        "text": "step,train/total,val/total\n1,x,1\n",
    }.items():
        make = lambda f, text=text: partial(read_history, written(f / "h.csv", text), "fusion")  # noqa: E731
        yield Bad(f"history: {what}", make, "Damaged file(.|\n)*run the stage `train`")
    for what, text in {"nothing": "", "fold": "name,fold\nx,exam\n", "cut": "name,fold\nx"}.items():
        make = lambda f, text=text: partial(read_folds, written(f / "f.csv", text))  # noqa: E731
        yield Bad(f"folds: {what}", make, "Damaged file(.|\n)*run the stage `divide`")
    for what, text in {
        "nothing": "",
        "cut": "paper,table\nx",
        "other": "paper,table,dataset,method,metric,value\n",
    }.items():
        make = lambda f, text=text: partial(read_published, written(f / "p.csv", text), "p", "1", "d")  # noqa: E731
        yield Bad(f"printed: {what}", make, "Damaged file|names a table")
    for what, text in {"nothing": "", "cut": "name,split\nx", "page": "<html>"}.items():
        yield Bad(f"pairs: {what}", prepared(text), "Damaged file(.|\n)*run the stage `prepare`")
    yield from found_objects()


def found_objects() -> Iterator[Bad]:
    objects = {"classes": ["car"], "objects": {"x": [1]}}
    good = "image,class,score,hits\nx,car,0.5,1111100000\n"

    def results(read: Callable[[Path], object], table: str, summary: object) -> Callable[[Path], Call]:
        def make(folder: Path) -> Call:
            written(folder / "a.seed0.csv", table)
            written(folder / "a.seed0.json", summary if isinstance(summary, str) else json.dumps(summary))
            return lambda: read(folder / "a.seed0")

        return make

    for what, table, summary in (
        ("nothing", "", objects), ("cut", good[:-15], objects), ("image", good.replace("x,", "y,"), objects),
        ("class", good.replace("car", "ufo"), objects),
        ("score", good.replace("0.5", "high"), objects),
        ("hits", good.replace("11111", "111"), objects), ("no objects", good, {"classes": ["car"]}),
        ("no json", good, "{"),
    ):  # fmt: skip
        yield Bad(f"detections: {what}", results(read_detections, table, summary), "Damaged file|do not match")
    good = "image,true,predicted,pixels\nx,car,car,5\n"
    masks = {"classes": ["car"], "images": ["x"]}
    for what, table, summary in (
        ("cut", good[:-4], masks), ("image", good.replace("x,", "y,"), masks),
        ("pixels", good.replace("5", "x"), masks),
        ("no images", good, {"classes": ["car"]}), ("list", good, "[]"),
    ):  # fmt: skip
        yield Bad(f"segments: {what}", results(read_masks, table, summary), "Damaged file|do not match")


def prepared(text: str) -> Callable[[Path], Call]:
    def make(folder: Path) -> Call:
        catalog = load_catalog(ROOT / "data/catalog.yaml", schema=CATALOG_SCHEMA)
        written(folder / "data/prepared/msrs/pairs.csv", text)
        return lambda: card(catalog, "msrs", folder)

    return make
