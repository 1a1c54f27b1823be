"""The report's statistics: values by hand, second implementations, and what must hold for any numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mmfuse.reporting import statistics
from mmfuse.reporting.statistics import (
    average_ranks,
    can_differ,
    cliques,
    compare,
    critical_difference,
    holm,
    interval,
    signed_rank,
)

NAN = math.nan


@pytest.fixture
def random():
    return np.random.default_rng(7)


# ------------------------------------------------------------------------------------------------------- intervals


def test_interval_agrees_with_scipy(random):
    values = random.gamma(2.0, 1.0, size=(3, 40))
    theirs = stats.bootstrap((values,), np.mean, axis=1, method="percentile", n_resamples=20_000, rng=random)
    width = (theirs.confidence_interval.high - theirs.confidence_interval.low)[:, None]
    expected = np.stack([theirs.confidence_interval.low, theirs.confidence_interval.high], axis=1)
    assert (np.abs(interval(values) - expected) < 0.05 * width).all()


def test_interval_moves_and_scales_with_the_values_and_is_repeatable(random):
    values = random.normal(size=(2, 30))
    low, high = interval(values).T
    assert ((low < values.mean(1)) & (values.mean(1) < high)).all()
    np.testing.assert_allclose(interval(3 - 2 * values), np.stack([3 - 2 * high, 3 - 2 * low], axis=1), atol=1e-12)
    assert interval(values).tobytes() == interval(values.copy()).tobytes()
    half = 1.96 * values.std(1) / math.sqrt(30)
    np.testing.assert_allclose(high - low, 2 * half, rtol=0.1)


def test_interval_of_few_or_undefined_values():
    values = np.array([[5.0, NAN, NAN], [NAN, NAN, NAN], [1.0, 2.0, NAN], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(interval(values), [[5, 5], [NAN, NAN], [1, 2], [4, 4]])


# ---------------------------------------------------------------------------------------------------- paired tests


@pytest.mark.parametrize(
    ("differences", "p", "sign"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64, 1),  # one choice of signs in 64 on either side
        ([-1, -2, -3, -4, -5, -6], 2 / 64, -1),
        ([-1, 2, 3, 4, 5, 6], 4 / 64, 1),  # rank sums of at most 1: none, or the first
        ([1, 1, 1, -1], 10 / 16, 1),  # all share the rank 2.5: the share of at least three equal signs
        ([1, -1], 1, 0),
        ([0.3], 1, 1),
        ([0, 0, 0], 1, 0),
        ([0, 0, 1, 2, 3, 4, 5, 6, NAN], 2 / 64, 1),  # zeros and undefined ones do not count
        ([], NAN, 0),
        ([NAN, NAN], NAN, 0),
    ],
)
def test_signed_rank_by_hand(differences, p, sign):
    found = signed_rank(np.array(differences, dtype=float))
    assert found == (pytest.approx(p, nan_ok=True), sign)


@pytest.mark.parametrize("count", [2, 7, 25, 50, 51, 300])
def test_signed_rank_agrees_with_scipy(random, count):
    differences = random.normal(0.2, 1.0, count)
    theirs = stats.wilcoxon(differences)
    p, sign = signed_rank(differences)
    assert p == pytest.approx(theirs.pvalue, rel=1e-12)
    larger = stats.wilcoxon(differences, alternative="greater").pvalue < 0.5
    assert sign == (1 if larger else -1)


@pytest.mark.parametrize("count", [1, 7, 50, 60, 300])
@pytest.mark.parametrize("kind", ["distinct", "tied", "gaps"])
def test_many_tests_at_once_give_the_digits_of_each_alone(monkeypatch, random, count, kind):
    monkeypatch.setattr(statistics, "_AT_ONCE", 5 * 16 * count)  # several blocks
    differences = random.normal(0.2, 2.0, (12, count))
    if kind != "distinct":
        differences = np.round(differences)
        differences[3] = 0
        differences[5] = differences[5] - differences[5][::-1]  # sums of ranks that are equal
    if kind == "gaps":
        differences[1, ::3], differences[4] = NAN, NAN
    found = list(zip(*(part.tolist() for part in statistics.signed_ranks(differences)), strict=True))
    np.testing.assert_array_equal(found, [signed_rank(row) for row in differences])


def test_signed_rank_with_ties_agrees_with_all_choices_of_signs(random):
    for _ in range(20):
        differences = random.integers(-3, 5, size=8).astype(float)
        sizes = np.abs(differences[differences != 0])
        places = stats.rankdata(sizes)
        sums = np.array([sum(p for p, up in zip(places, ups, strict=True) if up)
                         for ups in itertools.product([False, True], repeat=sizes.size)])  # fmt: skip
        own = places[differences[differences != 0] > 0].sum()
        expected = min(1.0, 2 * min((sums >= own).mean(), (sums <= own).mean()))
        assert signed_rank(differences)[0] == pytest.approx(expected, rel=1e-12)


def test_holm_by_hand():
    # in order: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which must not lie below the one before
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.02, NAN, 0.9, 0.5])), [0.06, NAN, 1.0, 1.0])
    assert holm(np.array([])).size == 0


def test_holm_keeps_the_order_and_never_lowers_a_value(random):
    p = random.random(50) ** 3
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, 50 * p)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_compare_tests_each_pair_over_the_images_that_both_have(random):
    values = random.normal(size=(4, 12))
    values[1] += 3
    values[2, :4] = NAN
    values[3] = values[0]
    p, signs = compare(values)
    np.testing.assert_array_equal(p, p.T)
    np.testing.assert_array_equal(signs, -signs.T)
    assert np.isnan(np.diag(p)).all()
    assert (p[0, 3], signs[0, 3]) == (1.0, 0)
    raw = [stats.wilcoxon((values[i] - values[j])[4 * (2 in (i, j)) :]).pvalue
           for i, j in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]]  # fmt: skip
    expected = holm(np.array([*raw, 1.0]))
    np.testing.assert_allclose([p[0, 1], p[0, 2], p[1, 2], p[1, 3], p[2, 3]], expected[:5], rtol=1e-12)
    assert signs[1].tolist() == [1, 0, 1, 1]
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(compare(values[order])[0], p[np.ix_(order, order)], rtol=1e-12)


def test_round_off_is_no_difference():
    first = np.arange(1.0, 31.0)
    p, signs = compare(np.stack([first, first * (1 + 1e-15)]))
    assert (p[0, 1], signs[0, 1]) == (1.0, 0)
    assert average_ranks(np.stack([first, first * (1 + 1e-15)]), 1).tolist() == [1.5, 1.5]


def test_methods_without_a_common_image_are_not_tested():
    p, signs = compare(np.array([[1.0, NAN], [NAN, 2.0], [3.0, 3.0]]))
    assert np.isnan(p[0, 1])
    assert signs[0, 1] == 0
    assert p[0, 2] == 1.0  # one image


@pytest.mark.parametrize(("methods", "images"), [(2, 5), (2, 6), (4, 7), (4, 8), (2, 1)])
def test_few_images_cannot_show_a_difference(methods, images):
    values = np.arange(methods)[:, None] * np.arange(1.0, images + 1) + np.arange(methods)[:, None]
    assert can_differ(methods, images) == bool((compare(values)[0] < 0.05).any())


# ----------------------------------------------------------------------------------------------------------- ranks


def test_average_ranks_by_hand():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [3.0, 1.0], [2.0, 0.0]])
    assert average_ranks(values, 1).tolist() == [(4 + 1.5) / 2, (1.5 + 1.5) / 2, (1.5 + 3) / 2, (3 + 4) / 2]
    assert average_ranks(values, -1).tolist() == [(1 + 3.5) / 2, (3.5 + 3.5) / 2, (3.5 + 2) / 2, (2 + 1) / 2]


@pytest.mark.parametrize("kind", ["apart", "tied", "close", "one image tied", "large"])
def test_places_count_the_methods_that_are_better_and_half_of_the_equal_ones(random, kind):
    values = random.normal(5, 1, (6, 80))
    if kind == "tied":
        values = values.round(1)
    elif kind == "close":  # differences around the one that counts as equal
        values = 5 * (1 + random.integers(-3, 4, values.shape) * 5e-10) + random.normal(0, 1e-12, values.shape)
    elif kind == "one image tied":
        values[1, 3] = values[4, 3]
    elif kind == "large":
        values *= -1e12
    for sign in (1, -1):
        ahead = sign * statistics.difference(values[:, None], values[None])
        expected = 1.0 + (ahead < 0).sum(1) + 0.5 * ((ahead == 0).sum(1) - 1)
        assert (statistics.places(values, sign) == expected).all()


def test_differences_are_exact_unless_they_are_round_off(random):
    first = random.normal(5, 1, (4, 30))
    second = random.normal(5, 1, (4, 30))
    assert (statistics.difference(first, second) == first - second).all()
    second[2, 7] = first[2, 7] * (1 + 1e-12)
    second[1, 0], first[3, 3] = math.nan, math.inf
    found = statistics.difference(first, second)
    assert found[2, 7] == 0
    assert np.isnan(found[1, 0])
    assert found[3, 3] == math.inf
    rest = np.ones_like(first, dtype=bool)
    rest[[2, 1, 3], [7, 0, 3]] = False
    assert (found[rest] == (first - second)[rest]).all()


def test_average_ranks_agree_with_scipy(random):
    values = random.integers(0, 5, size=(6, 40)).astype(float)
    np.testing.assert_allclose(average_ranks(values, -1), stats.rankdata(values, axis=0).mean(1))
    assert average_ranks(values, 1).sum() == pytest.approx(21)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_published_values(methods, q):
    """Demsar 2006, table 5(a), which prints three decimals."""
    assert critical_difference(methods, 14) == pytest.approx(q * math.sqrt(methods * (methods + 1) / 84), rel=3e-4)


@pytest.mark.parametrize("shared", [0.0, 0.9, 1.0])
def test_equal_methods_seldom_differ_also_over_several_metrics(random, shared):
    """The error rate stays near or below 5 % for the mean of ranks over metrics, however alike the metrics are."""
    methods, images, metrics, studies = 4, 20, 3, 600
    common = random.normal(size=(studies, 1, methods, images))
    values = shared * common + (1 - shared) * random.normal(size=(studies, metrics, methods, images))
    places = stats.rankdata(values, axis=2).mean(axis=(1, 3))  # (studies, methods)
    assert (np.ptp(places, axis=1) > critical_difference(methods, images)).mean() < 0.07


def test_cliques_are_the_largest_groups_within_the_difference():
    ranks = np.array([3.0, 1.0, 1.8, 2.6, 5.0])
    assert cliques(ranks, 1.0) == [(1, 2), (2, 3), (3, 0)]
    assert cliques(ranks, 1.25) == [(1, 2), (2, 3, 0)]
    assert cliques(ranks, 0.1) == []
    assert cliques(ranks, 9.0) == [(1, 2, 3, 0, 4)]


def test_many_images_take_little_memory_and_give_the_same_numbers(random, monkeypatch):
    values, ranked = random.normal(size=(3, 40)), random.normal(size=(6, 40)).round(1)
    whole, ranks = interval(values), average_ranks(ranked, 1)
    counts = statistics._counts(40)
    assert (counts == statistics.drawn(40, 10_000)).all()
    assert counts.dtype == np.uint8
    statistics._counts.cache_clear()
    monkeypatch.setattr(statistics, "_AT_ONCE", 250)  # six images at once, and a few of the resamples
    assert (statistics._counts(40) == counts).all()
    np.testing.assert_allclose(interval(values), whole, rtol=1e-12)
    np.testing.assert_allclose(average_ranks(ranked, 1), ranks, rtol=1e-12)
    statistics._counts.cache_clear()


# ------------------------------------------------------------------------------------------- over images and seeds


@pytest.mark.parametrize(
    ("seeds", "images", "deviations"),
    [(3, 50, (0, 1, 1)), (3, 50, (0.1, 1, 1)), (5, 25, (0.2, 1, 0.5)), (3, 150, (1, 0.1, 0.1)), (2, 50, (0.2, 1, 0.5))],
)
def test_an_interval_over_images_and_seeds_holds_the_true_mean(random, seeds, images, deviations):
    of_seed, of_image, of_rest = deviations
    held = []
    for _ in range(1000):
        values = of_seed * random.normal(size=(seeds, 1)) + of_image * random.normal(size=(1, images))
        found = statistics.crossed(values + of_rest * random.normal(size=(seeds, images)))
        held.append(found.low < 0 < found.high)
    assert 0.92 < np.mean(held) < 0.985


def test_variances_of_a_table_by_hand():
    # rows 1 2 3 / 3 5 7: means 2 and 5, columns 2 3.5 5, all 3.5; rest ±0.5 0 ∓0.5
    found = statistics.crossed(np.array([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]]))
    assert found.mean == 3.5
    assert found.rest == pytest.approx(1.0 / 2)
    assert found.seeds == pytest.approx(4.5 - 0.5 / 3)
    assert found.images == pytest.approx(2.25 - 0.5 / 2)


def test_one_seed_gives_the_t_interval_over_the_images(random):
    values = random.normal(size=(1, 12))
    found = statistics.crossed(values)
    low, high = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values[0]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert math.isnan(found.seeds) and statistics.seeds_to_decide(found, 12) is None


def test_the_number_of_seeds_that_decides_is_the_smallest(random):
    values = 0.4 + np.array([[-0.5], [0.6], [0.1]]) + 0.1 * random.normal(size=(3, 40))
    found = statistics.crossed(values)
    assert found.low < 0 < found.high
    needed = statistics.seeds_to_decide(found, 40)
    halves = {
        seeds: statistics._half_width(statistics._mean_squares((seeds, 40), found.seeds, found.images, found.rest))
        for seeds in (needed - 1, needed)
    }
    assert halves[needed] < abs(found.mean) <= halves[needed - 1]
    assert statistics.seeds_to_decide(found, 40, most=needed - 1) is None


def test_values_that_do_not_vary_and_too_few_images():
    found = statistics.crossed(np.full((3, 5), 2.0))
    assert (found.low, found.high) == (2.0, 2.0) and statistics.seeds_to_decide(found, 5) == 2
    assert math.isnan(statistics.crossed(np.ones((3, 1))).low)
    assert math.isnan(statistics.crossed(np.ones((3, 0))).mean)
