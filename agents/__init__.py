"""Agents that work on repositories: CodeMonkeys (arXiv 2501.14723)."""
