"""Numbers about models: cost, attention, scores. They are drawn by `figures`."""
