"""What several processes make together is what one makes: processes are played, one after the other."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from nca_gen import hosts


def play(monkeypatch, index, count):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: count)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5, 150])
def test_everything_is_made_by_one_and_known_to_all(n, count, monkeypatch):
    whole, given, made = np.arange(2 * n).reshape(n, 2), {}, []
    monkeypatch.setattr(hosts, "meet", lambda: None)

    def make(some):
        made.append(some)
        return iter(whole[some])

    for _ in range(2):  # in the second round all have given
        for index in range(count):
            play(monkeypatch, index, count)
            calls = []

            def process_allgather(x, index=index, calls=calls):
                shares = given.setdefault(len(calls), {})
                calls.append(x)
                shares[index] = x
                assert len({share.shape for share in shares.values()}) == 1
                return np.stack([shares.get(p, x) for p in range(count)])

            monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
            together = hosts.together(make, n)
    np.testing.assert_array_equal(together, whole)
    drawn = [i for some in made[:count] for i in range(n)[some]]
    assert sorted(set(drawn)) == list(range(n))
    assert len(drawn) == max(n, count)  # each once; the first again where there is nothing else


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_items_are_dealt_and_none_twice(count, monkeypatch):
    shares = []
    for index in range(count):
        play(monkeypatch, index, count)
        shares.append(list(hosts.dealt(range(5))))
        assert hosts.first() == (index == 0)
    assert sorted(i for share in shares for i in share) == list(range(5))
    assert max(map(len, shares)) == -(-5 // count)
