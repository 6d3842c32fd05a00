"""Cards, the record of how a model was made, and what goes to the Hub."""
