"""Training of projections: one file for each method, with its objective, its arguments and its record."""
