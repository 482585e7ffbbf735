"""Forms in which a model writes an edit, and what makes a patch of it."""
