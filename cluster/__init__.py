"""Where work runs: storage, registry, layouts and the life of a Ray cluster. Knows no model."""

from cluster.cpu import prepare_numpy

prepare_numpy()
