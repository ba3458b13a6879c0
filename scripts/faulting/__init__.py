"""Deliberate faults, and what a study's files come to under them; `faults.py` runs them all."""
