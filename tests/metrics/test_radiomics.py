"""Radiomic features: matrices worked out by hand in the documentation of PyRadiomics, closed forms, and its digits."""

from __future__ import annotations

import numpy as np
import pytest

from nca_gen.metrics import radiomics

# From the documentation of PyRadiomics, of its classes glcm, of glrlm and glszm, and of ngtdm.
PAIRS = [[1, 2, 5, 2, 3], [3, 2, 1, 3, 1], [1, 3, 5, 5, 2], [1, 1, 1, 1, 2], [1, 2, 4, 3, 5]]
RUNS = [[5, 2, 5, 4, 4], [3, 3, 3, 1, 3], [2, 1, 1, 1, 3], [4, 2, 2, 2, 3], [3, 5, 3, 3, 2]]
TONES = [[1, 2, 5, 2], [3, 5, 1, 3], [1, 3, 5, 5], [3, 1, 1, 1]]


def grid(rows):
    """A region of which every level is a bin of its own."""
    image = np.array(rows, float)
    return radiomics.region(image, np.ones(image.shape, bool), 1.0)


def picture(seed, height, width):
    """Texture of 8 bits, elementwise from RandomState: the same numbers everywhere."""
    z = np.random.RandomState(seed).standard_normal((height, width))
    z = z + np.roll(z, 1, 0) + np.roll(z, 1, 1) + np.roll(z, (1, 1), (0, 1))
    return np.clip(128 + 30 * z, 0, 255).astype(np.uint8)


def test_pairs_in_a_row():
    """The symmetric matrix of the documentation, of neighbours to the right."""
    matrix = np.array([[6, 4, 3, 0, 0], [4, 0, 2, 1, 3], [3, 2, 0, 1, 2], [0, 1, 1, 0, 0], [0, 3, 2, 0, 2]]) / 40
    i, j = np.indices((5, 5)) + 1
    of = grid(PAIRS)
    got = radiomics._co_occurrence(*radiomics._neighbours(of.levels, 1), 5)
    mean = (matrix * i).sum()
    crossed = np.outer(matrix.sum(1), matrix.sum(0))
    entropy = -(matrix[matrix > 0] * np.log2(matrix[matrix > 0])).sum()
    expected = {
        "JointEnergy": (matrix**2).sum(),
        "MaximumProbability": 6 / 40,
        "Autocorrelation": (matrix * i * j).sum(),
        "Contrast": (matrix * (i - j) ** 2).sum(),
        "ClusterShade": (matrix * (i + j - 2 * mean) ** 3).sum(),
        "Correlation": (matrix * (i - mean) * (j - mean)).sum() / (matrix * (i - mean) ** 2).sum(),
        "JointEntropy": entropy,
        "Imc2": np.sqrt(1 - np.exp(-2 * (-(crossed * np.log2(crossed)).sum() - entropy))),
        "Idn": (matrix / (1 + abs(i - j) / 5)).sum(),
        "InverseVariance": (matrix / np.where(i == j, np.inf, (i - j) ** 2.0)).sum(),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("take", "matrix"),
    [
        ("row", [[1, 0, 1, 0, 0], [3, 0, 1, 0, 0], [4, 1, 1, 0, 0], [1, 1, 0, 0, 0], [3, 0, 0, 0, 0]]),
        ("zones", [[0, 0, 0, 1, 0], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [3, 0, 0, 0, 0]]),
    ],
)
def test_runs_in_a_row_and_zones(take, matrix):
    """By the matrices of the documentation: levels down, lengths or sizes to the right."""
    of = grid(RUNS)
    got = radiomics.run_lengths(of._replace(strides=[1])) if take == "row" else radiomics.size_zones(of)
    p = np.array(matrix, float)
    i, j = np.indices(p.shape) + 1
    n = p.sum()
    short, long, run, length = (
        ("Short", "Long", "Run", "RunLength") if take == "row" else ("Small", "Large", "Zone", "SizeZone")
    )
    area = "Run" if take == "row" else "Area"
    expected = {
        f"{run}Percentage": n / 25,
        "GrayLevelNonUniformity": (p.sum(1) ** 2).sum() / n,
        f"{length}NonUniformity": (p.sum(0) ** 2).sum() / n,
        f"{short}{area}Emphasis": (p / j**2).sum() / n,
        f"{long}{area}LowGrayLevelEmphasis": (p * j**2 / i**2).sum() / n,
        f"{short}{area}HighGrayLevelEmphasis": (p * i**2 / j**2).sum() / n,
        f"{run}Entropy": -(p[p > 0] / n * np.log2(p[p > 0] / n)).sum(),
        f"{run}Variance": (p * j**2).sum() / n - ((p * j).sum() / n) ** 2,
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_tones():
    """Counts and sums of differences of the levels 1, 2, 3 and 5; its table has 2.63 where its text has 3.03."""
    i, n, s = np.array([[1, 6, 13.35], [2, 2, 2.0], [3, 4, 91 / 30], [5, 4, 10.075]]).T
    p, got = n / 16, radiomics.tone_differences(grid(TONES))
    assert got["Coarseness"] == pytest.approx(1 / (p * s).sum())
    step = np.abs(np.subtract.outer(i * p, i * p)).sum()
    assert got["Busyness"] == pytest.approx((p * s).sum() / step)
    spread = (np.outer(p, p) * np.subtract.outer(i, i) ** 2).sum()
    assert got["Contrast"] == pytest.approx(spread / 12 * s.sum() / 16)


def test_first_order_of_two_greys():
    """Half of the cells at -10, half at 10: moments and entropy by hand, energy about -300."""
    image = np.where(np.indices((4, 4)).sum(0) % 2, 10.0, -10.0)
    got = radiomics.first_order(radiomics.region(image, np.ones((4, 4), bool)), 4.0)
    energy = 8 * (290**2 + 310**2)
    expected = {"Mean": 0, "Variance": 100, "Skewness": 0, "Kurtosis": 1, "Entropy": 1, "Uniformity": 0.5}
    expected |= {"Energy": energy, "TotalEnergy": 4 * energy, "Range": 20, "MeanAbsoluteDeviation": 10}
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_board_in_three_dimensions():
    """A board of 1 and 2: along an axis all neighbours differ, along 9 of 13 ways by its parity; one zone each."""
    board = np.indices((4, 4, 4)).sum(0) % 2
    of = radiomics.region(board.astype(float), np.ones(board.shape, bool), 1.0)
    assert len(of.strides) == 13
    assert radiomics.co_occurrence(of)["Contrast"] == pytest.approx((3 + 4) / 13)  # odd steps: 3 edges, 4 diagonals
    assert radiomics.size_zones(of)["LargeAreaEmphasis"] == 32**2  # diagonals of faces connect
    assert radiomics.run_lengths(of)["RunPercentage"] < 1


def test_a_flat_image_has_limits():
    got = radiomics.features(np.full((6, 6), 3.0), np.ones((6, 6), bool))
    expected = {
        "glcm_Correlation": 1,
        "glcm_Imc1": 0,
        "glcm_Imc2": 0,
        "firstorder_Skewness": 0,
        "ngtdm_Coarseness": 1e6,
    }
    assert {name: got[name] for name in expected} == expected
    assert len(got) == 77


# pyradiomics-bhklab 3.1.4 with the settings of frd-score 1.0.1, on picture(1, 33, 30).
PEER = {
    "firstorder_10Percentile": -117.27736934748427,
    "firstorder_Entropy": 5.859006099845989,
    "firstorder_InterquartileRange": 117.11743366154629,
    "firstorder_RobustMeanAbsoluteDeviation": 50.540479705565296,
    "firstorder_RootMeanSquared": 314.41206304478874,
    "firstorder_TotalEnergy": 94900747.572557,
    "glcm_ClusterProminence": 1349412.1391727615,
    "glcm_DifferenceEntropy": 5.496793596433719,
    "glcm_DifferenceVariance": 238.96633054600892,
    "glcm_Imc1": -0.5263419967281808,
    "glcm_Imc2": 0.9989432952048094,
    "glcm_Idmn": 0.9425846590557513,
    "glcm_SumEntropy": 6.295582086753815,
    "glrlm_GrayLevelVariance": 339.85536375659285,
    "glrlm_RunEntropy": 5.905475055694678,
    "glrlm_RunLengthNonUniformity": 231.0932582231152,
    "glszm_SizeZoneNonUniformity": 205.26315789473685,
    "glszm_ZonePercentage": 0.95,
    "ngtdm_Complexity": 35400.755236338926,
    "ngtdm_Contrast": 1.9816991377715205,
    "ngtdm_Strength": 35.121432105824525,
    "wavelet-LH_firstorder_Skewness": -0.015613723709370479,
    "wavelet-LH_glrlm_RunVariance": 0.01041480361776618,
    "wavelet-HL_glcm_ClusterShade": -939.2119044625258,
    "wavelet-HL_ngtdm_Busyness": 0.023180297825278445,
    "wavelet-HH_glszm_LargeAreaHighGrayLevelEmphasis": 3960.9691629955946,
    "wavelet-LL_firstorder_Skewness": -0.2013410755512109,
    "wavelet-LL_glcm_ClusterShade": -6735.026443934082,
    "wavelet-LL_ngtdm_Busyness": 0.009654619948809713,
}


def test_digits_of_pyradiomics():
    """An odd side: its last row is beyond what is resampled, and the wavelets are periodic over one row more."""
    cells, mask = radiomics.resampled(radiomics.normal(picture(1, 33, 30).astype(float)), (2.0, 2.0))
    assert (cells.shape, int(mask.sum())) == ((17, 15), 240)
    got = radiomics.features(cells, mask, 4.0)
    for form, x in radiomics.wavelets(cells):
        got |= {f"{form}_{name}": value for name, value in radiomics.features(x, mask, 4.0).items()}
    assert len(got) == 5 * 77
    assert {name: got[name] for name in PEER} == pytest.approx(PEER, rel=1e-8)


def test_wavelets_keep_energy_and_sum():
    """Undecimated by an orthonormal filter: squares add up to 4 times those of the image; L is sqrt 2 an axis."""
    image = np.random.default_rng(0).standard_normal((8, 10))
    forms = dict(radiomics.wavelets(image))
    assert list(forms) == ["wavelet-LH", "wavelet-HL", "wavelet-HH", "wavelet-LL"]
    assert sum((x**2).sum() for x in forms.values()) == pytest.approx(4 * (image**2).sum())
    assert forms["wavelet-LL"].sum() == pytest.approx(2 * image.sum())
    rows = np.repeat(np.cos(np.pi * np.arange(8))[:, None], 10, 1)  # the highest frequency, along the first axis
    assert [round(float(np.abs(x).max()), 3) for x in dict(radiomics.wavelets(rows)).values()] == [2, 0, 0, 0]


def test_laplacian_of_a_wave():
    """Of cos(k x): -s^2 k^2 exp(-s^2 k^2 / 2) cos(k x), far from the borders."""
    k, x = 0.2, np.arange(200.0)
    image = np.repeat(np.cos(k * x)[None], 9, 0)
    forms = dict(radiomics.laplacians(image, 0.5, (2.0, 1.0)))
    assert list(forms) == ["log-sigma-2-mm", "log-sigma-1-mm"]
    for (_, y), cells in zip(forms.items(), (4.0, 2.0), strict=True):
        expected = -((cells * k) ** 2) * np.exp(-((cells * k) ** 2) / 2) * np.cos(k * x)
        np.testing.assert_allclose(y[4, 50:150], expected[50:150], atol=2e-3)
