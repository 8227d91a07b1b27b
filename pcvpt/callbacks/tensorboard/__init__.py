"""TensorBoard page of a run: curves, figures, texts, the projector, and the table of runs."""
