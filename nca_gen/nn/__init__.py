"""Network pieces."""
