"""What uses models: one Ray Serve application a file, plus what all of them share."""

import cluster  # noqa: F401  # before any module here imports NumPy: it is told what suits this CPU
