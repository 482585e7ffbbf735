"""Countdown: problems, brute-force solver, strict verifier."""
