"""Fitted transforms: pure Arrow and NumPy, so the same object fits in a batch job and serves one row."""
