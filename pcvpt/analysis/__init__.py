"""Looking at models and scores: agreement and cost."""
