"""Making: the trainers, what they collate, and the losses."""
