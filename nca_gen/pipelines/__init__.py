"""How trained parts generate."""
