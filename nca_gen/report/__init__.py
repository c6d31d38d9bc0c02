"""Pages to look at: what a run left behind, as one self-contained file."""
