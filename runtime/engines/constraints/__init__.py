"""Constraints as masks over a vocabulary, by llguidance."""
