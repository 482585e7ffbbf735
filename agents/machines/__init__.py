"""The state machines of CodeMonkeys, one file each (arXiv 2501.14723, section 3)."""
