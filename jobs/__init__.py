"""What produces models: the stages prepare, tune, train, collect, pipeline, and the libraries they share."""
