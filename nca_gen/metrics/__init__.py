"""Scores of generated against real images, one module a metric.

A metric module has two names that the judge reads, found through ``config.evals.scores.metrics`` or ``--metrics``:

- ``ABOUT``: what it measures and reads, see :class:`nca_gen.metrics.about.About`.
- ``score(generated, real, train, seed, **options) -> dict[str, float]``: with ``ABOUT.features`` arrays ``[N, D]``,
  else images ``[N, H, W, C]`` in [-1, 1]; ``real`` held out, ``train`` seen in training; their numbers may differ. The
  headline bears the name, parts are named ``<name>_<part>``. A 95 % interval of a mean over images is ``<name>_low``,
  ``<name>_high``.

Where a set can be boiled down, ``score`` is composed of ``statistics`` of each set and their ``distance``, and
``merge`` makes the statistics of two sets together (:class:`nca_gen.contracts.Metric`): what was computed of the real
images can be cached, and shards of a large set be computed apart.

Where a number cannot be given, ``score`` raises UserError; where it can, but with a caveat, it calls
:func:`nca_gen.metrics.notes.note`.
"""
