"""Schedules, processes and samplers; knows no network."""
