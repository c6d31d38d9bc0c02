"""Wholes made in parts: tiles, their halos, and passes over them through disk."""
