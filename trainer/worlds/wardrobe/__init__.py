"""A drawn catalogue of clothes, small enough to reproduce RTD on two cores."""
