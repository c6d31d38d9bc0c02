"""One question each about a trained run: pages of figures, tables and scores."""
