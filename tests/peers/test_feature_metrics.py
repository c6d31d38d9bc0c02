"""Metrics on features against the peers that papers use, on the same features."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
from feature_sets import features, logits, pair

from nca_gen.metrics import density_coverage, fid, fld, inception_score, kid, precision_recall
from nca_gen.metrics.notes import collecting

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
POLYNOMIAL = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}


@pytest.fixture(autouse=True)
def sqrtm(monkeypatch):
    """The peers ask scipy for a root as it was until 1.17: with ``disp=False`` an estimate of the error comes, too."""
    root = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda a, disp=True: root(a) if disp else (root(a), 0.0))


@pytest.fixture(scope="module")
def fidelity():
    """torch-fidelity, which imports torchvision: that has to be prepared first."""
    pytest.importorskip("peers.vision", exc_type=ImportError)
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    return metric_fid, metric_isc, metric_kid, metric_prc


def double(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "m", "width", "dtype", "rel"),
    [
        (400, 300, 64, np.float64, 1e-12),
        (400, 300, 64, np.float32, 2e-6),  # the mean is taken in float32 there
        (500, 450, 400, np.float64, 1e-10),
        (60, 90, 200, np.float64, 2e-6),  # N < D: the root of noise there
    ],
)
def test_fid_is_torch_fidelitys(fidelity, n, m, width, dtype, rel):
    generated, real = pair(n, m, width)
    stats = (fidelity[0].fid_features_to_statistics(torch.tensor(x.astype(dtype))) for x in (generated, real))
    expected = fidelity[0].fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    with collecting():
        assert fid.score(generated, real, None, 0)["fid"] == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("peer", ["pytorch_fid.fid_score.calculate_frechet_distance", "cleanfid.fid.frechet_distance"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.usefixtures("fidelity")
def test_fid_is_that_of_pytorch_fid_and_clean_fid_on_the_same_moments(peer, ddof):
    module, name = peer.rsplit(".", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about scipy's sqrtm
        theirs = getattr(pytest.importorskip(module), name)
        sets = [x.astype(np.float64) for x in pair(300, 200, 48)]
        moments = [(x.mean(0), np.cov(x, rowvar=False, ddof=ddof)) for x in sets]
        expected = theirs(*moments[0], *moments[1])
    ours = fid.distance(*(fid.published(*m, len(x), ddof) for m, x in zip(moments, sets, strict=True)), ddof)
    assert ours["fid"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "subsets", "size"), [(120, 150, 20, 50), (80, 61, 7, 61)])
def test_kid_is_torch_fidelitys(fidelity, n, m, subsets, size):
    generated, real = pair(n, m, 40)
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": 2020, "kid_kernel_poly_coef0": 1}
    theirs = fidelity[2].kid_features_to_metric(double(generated), double(real), verbose=False, **options, **POLYNOMIAL)
    ours = kid.score(generated, real, None, 0, subsets=subsets, size=size)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10)


def test_inception_score_is_torch_fidelitys(fidelity):
    x = logits(503, 40)
    theirs = fidelity[1].isc_features_to_metric(torch.tensor(x))
    with collecting():
        ours = inception_score.score(x, None, None, 0)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-13)
    assert ours["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-12)


@pytest.mark.parametrize(("n", "m", "width", "k"), [(300, 400, 64, 3), (250, 200, 512, 3), (100, 90, 16, 1)])
@pytest.mark.parametrize("save", [False, True])
def test_precision_and_recall_are_torch_fidelitys(fidelity, n, m, width, k, save):
    """Exactly, image for image. In float32 theirs rounds: of the first sets a point 1e-8 outside counts as inside."""
    generated, real = pair(n, m, width)
    options = {"prc_neighborhood": k, "prc_batch_size": 128, "save_cpu_ram": save, "verbose": False}
    ours = precision_recall.score(generated, real, None, 0, k=k)
    counts = [round(n * ours["precision_recall_precision"]), round(m * ours["precision_recall_recall"])]
    for dtype, off in ((np.float64, 0), (np.float32, 1)):
        sets = (torch.tensor(x.astype(dtype)) for x in (generated, real))
        theirs = fidelity[3].prc_features_to_metric(*sets, **options)
        np.testing.assert_allclose(counts, [n * theirs["precision"], m * theirs["recall"]], rtol=0, atol=off + 1e-4)
    assert ours["precision_recall"] == pytest.approx(theirs["f_score"], rel=5e-3)


@pytest.mark.parametrize(("n", "m", "width", "k"), [(300, 400, 64, 5), (250, 200, 512, 5), (100, 90, 16, 1)])
def test_density_and_coverage_are_prdcs(n, m, width, k):
    prdc = pytest.importorskip("prdc")
    generated, real = pair(n, m, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about threads
        theirs = prdc.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
    ours = density_coverage.score(generated, real, None, 0, k=k)
    assert ours["density_coverage"] == pytest.approx(theirs["coverage"], rel=1e-12)
    assert ours["density_coverage_density"] == pytest.approx(theirs["density"], rel=1e-12)


@pytest.mark.parametrize("width", [8, 64])
def test_fld_is_that_of_autograd_and_torchs_adam(width):
    """The published recipe with PyTorch's own gradient and optimiser, in float64."""
    sets = [double(features(seed, n, width)) for seed, n in ((0, 70), (1, 80), (2, 90))]
    mean, std = sets[1].mean(0), sets[1].std(0)
    generated, real, train = ((x - mean) / std for x in sets)

    def far(a, b):
        return ((a[:, None] - b) ** 2).sum(2)

    def log_normal(square, s):
        return -0.5 * square / torch.exp(s) - 0.5 * width * (s + math.log(2 * math.pi))

    def log_density(square, s, *extra):
        return torch.logsumexp(torch.cat([log_normal(square, s) - math.log(len(s)), *extra], 1), 1)

    near, middle = far(train, generated), 0.81 * far(train, train.mean(0)[None])
    s = ((near.min(0).values + 1e-3) / width).log().requires_grad_()
    common = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser, losses = torch.optim.Adam([s, common], lr=0.5), []
    for epoch in range(50):
        optimiser.zero_grad()
        loss = -log_density(near, s, log_normal(middle, common)).mean() / width
        loss.backward()
        optimiser.step()
        s.data.clamp_(-40, 40)
        losses.append(loss.item())
        if epoch > 5 and max(losses[-5:]) - losses[-1] < 5e-4 and losses[-1] - min(losses[-5:]) < 5e-4:
            break
    of_train, of_real = (-log_density(far(x, generated), s).mean().item() / width for x in (train, real))
    ours = fld.score(*(x.numpy().astype(np.float32) for x in sets), 0, perfect=1.0)
    assert ours["fld"] == pytest.approx(100 * (of_real - 1), abs=1e-4)
    assert ours["fld_gg"] == pytest.approx(100 * (of_train - of_real), abs=1e-4)
