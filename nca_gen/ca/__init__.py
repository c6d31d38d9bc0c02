"""Cellular automata; knows no diffusion."""
