"""What produces models: the stages prepare, tune, train, collect, pipeline, and the libraries they share."""

import cluster  # noqa: F401  # before any module here imports NumPy: it is told what suits this CPU
