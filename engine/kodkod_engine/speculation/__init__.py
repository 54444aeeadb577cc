"""Guessing tokens ahead of the model: drafters, what they cost and what they are worth."""
