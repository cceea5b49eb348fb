"""Clusters of numbers are those of k-means, or equal parts where one would be too small."""

import numpy as np

from ranef.numerics.kmeans import clusters


def test_clusters_are_k_means_or_even_parts():
    values = np.r_[np.zeros(30) + np.arange(30) / 100, 10 + np.arange(70) / 100]
    low, high = clusters(values[::-1], 2)
    assert (len(low), len(high)) == (30, 70)
    assert (values[::-1][low] < 5).all()
    # A single far value is no component to begin with.
    even = clusters(np.r_[np.arange(99) / 100, 1e6], 2)
    assert [len(each) for each in even] == [50, 50]
    assert [len(each) for each in clusters(np.zeros(1), 3)] == [1, 1, 1]
