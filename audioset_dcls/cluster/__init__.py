"""Tagging on many machines with Ray Data. Only `engine.py` imports Ray."""
