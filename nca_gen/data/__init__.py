"""Data sets as sequences of examples, and the batches drawn from them."""
