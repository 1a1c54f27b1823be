"""Average precision and IoU: values by hand, and agreement with second libraries."""

import numpy as np
import pytest

from mmfuse.downstream import boxes, masks
from mmfuse.downstream.boxes import Boxes


def some(sides, kinds, scores=None):
    count = len(kinds)
    return Boxes(
        np.array(sides, float).reshape(-1, 4),
        np.array(kinds, np.int64),
        np.array(scores if scores is not None else np.ones(count), float),
    )


def random_boxes(random, count, classes, *, near=None):
    """Random boxes; with `near`, some of them lie close to given ones."""
    corner = random.uniform(0, 80, (count, 2))
    sides = np.concatenate([corner, corner + random.uniform(4, 30, (count, 2))], axis=1)
    kinds = random.integers(0, classes, count)
    if near is not None:
        for row in range(min(count, len(near))):
            if random.random() < 0.8:
                sides[row] = near.sides[row] + random.normal(0, 1.5, 4)
                kinds[row] = near.kinds[row] if random.random() < 0.9 else kinds[row]
    return some(sides, kinds, random.permutation(count * 7)[:count] / (count * 7))


def random_case(seed, images=14, classes=4):
    random = np.random.default_rng(seed)
    truth = [random_boxes(random, int(random.integers(0, 7)), classes - 1) for _ in range(images)]  # one never occurs
    return [random_boxes(random, int(random.integers(0, 12)), classes, near=t) for t in truth], truth, classes


def measured(predicted, truth, classes):
    average = boxes.average_precision(boxes.match(predicted, truth, classes))
    return average[0], boxes.mean_precision(average[..., :1])[0], boxes.mean_precision(average)[0]


def test_a_perfect_detector_has_one_and_an_empty_one_zero():
    _, truth, classes = random_case(0)
    average, at_half, overall = measured(truth, truth, classes)
    assert at_half == overall == 1
    assert np.isnan(average[classes - 1]).all()  # a class without objects has no AP and does not count
    nothing = [some([], []) for _ in truth]
    assert measured(nothing, truth, classes)[1:] == (0, 0)


def test_one_miss_and_one_false_alarm_by_hand():
    truth = [some([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0])]
    # right (0.9), wrong (0.8), right (0.7): precision 1 up to recall 0.5, then 2/3
    predicted = [some([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [0, 0, 0], [0.9, 0.8, 0.7])]
    assert measured(predicted, truth, 1)[1] == pytest.approx((51 + 50 * 2 / 3) / 101)
    doubled = [some([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0], [0.9, 0.8])]  # one object, found twice, counts once
    assert measured(doubled, truth, 1)[1] == pytest.approx(51 / 101)


def test_the_overlap_threshold_decides():
    truth = [some([[0, 0, 10, 10]], [0])]
    average, at_half, overall = measured([some([[0, 0, 10, 7]], [0], [0.5])], truth, 1)  # overlap 0.7
    assert at_half == 1
    assert average[0].tolist() == [1] * 5 + [0] * 5
    assert overall == 0.5


def test_drawing_an_image_twice_equals_having_it_twice():
    predicted, truth, classes = random_case(3, images=5)
    counts = np.array([[2, 0, 1, 3, 1]])
    rows = np.repeat(np.arange(5), counts[0])
    again = boxes.average_precision(boxes.match([predicted[i] for i in rows], [truth[i] for i in rows], classes))
    drawn = boxes.average_precision(boxes.match(predicted, truth, classes), counts)
    np.testing.assert_allclose(drawn, again, atol=0.02)  # equal scores of copies may stand in another order
    once = boxes.average_precision(boxes.match(predicted, truth, classes), np.ones((2, 5), int))
    np.testing.assert_array_equal(once[0], boxes.average_precision(boxes.match(predicted, truth, classes))[0])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_pycocotools(seed):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    predicted, truth, classes = random_case(seed)

    def rows(found, scored):
        number = 0
        for image, one in enumerate(found):
            for (left, top, right, bottom), kind, score in zip(one.sides, one.kinds, one.scores, strict=True):
                number += 1
                box = [left, top, right - left, bottom - top]
                row = {"id": number, "image_id": image + 1, "category_id": int(kind) + 1, "bbox": box}
                yield row | {"area": box[2] * box[3], "iscrowd": 0} | ({"score": score} if scored else {})

    known = coco.COCO()
    known.dataset = {
        "images": [{"id": k + 1} for k in range(len(truth))],
        "categories": [{"id": k + 1} for k in range(classes)],
        "annotations": list(rows(truth, scored=False)),
    }
    known.createIndex()
    theirs = evaluation.COCOeval(known, known.loadRes(list(rows(predicted, scored=True))), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    precision = theirs.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes), all areas, 100 predictions
    expected = np.where(precision < 0, np.nan, precision).mean(1).T  # (classes, thresholds)
    average, at_half, overall = measured(predicted, truth, classes)
    np.testing.assert_allclose(average, expected, atol=1e-9)
    assert at_half == pytest.approx(np.nanmean(expected[:, 0]))
    assert overall == pytest.approx(np.nanmean(expected))
    assert 0.05 < overall < 0.9


def test_overlaps_by_hand():
    one = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], float)
    other = np.array([[0, 0, 10, 7], [5, 5, 15, 15], [20, 20, 30, 30], [5, 5, 5, 9]], float)
    found = boxes.overlaps(one, other)  # a box without an area overlaps nothing, itself included
    np.testing.assert_array_equal(found, [[70 / 100, 25 / 175, 0, 0], [0, 0, 0, 0]])
    assert boxes.overlaps(one[:0], other).shape == (0, 4)


@pytest.mark.parametrize("seed", range(3))
def test_iou_agrees_with_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    classes = 5
    truth = random.integers(0, classes - 1, (3, 20, 30)).astype(np.uint8)  # one class never occurs
    predicted = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, classes - 1, truth.shape))
    truth[:, :4] = masks.IGNORED
    found = sum(masks.confusion(p, t, classes) for p, t in zip(predicted, truth, strict=True))
    known = truth != masks.IGNORED
    flat = truth[known], predicted[known]
    np.testing.assert_array_equal(found, sklearn.confusion_matrix(*flat, labels=range(classes)))
    iou, accuracy = masks.ratios(found)
    np.testing.assert_allclose(iou[:-1], sklearn.jaccard_score(*flat, labels=range(classes - 1), average=None))
    np.testing.assert_allclose(accuracy[:-1], sklearn.recall_score(*flat, labels=range(classes - 1), average=None))
    assert np.isnan(iou[-1]), "neither true nor predicted: no IoU"
    assert masks.mean(iou) == pytest.approx(np.mean(iou[:-1]))


def test_pixels_without_a_label_count_nowhere():
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    for beyond in (0, 1):
        matrix = masks.confusion(np.array([[0, 1, beyond, beyond]]), truth, 2)
        assert matrix.tolist() == [[1, 0], [0, 1]]
        assert masks.ratios(matrix)[0].tolist() == [1, 1]
