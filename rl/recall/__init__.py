"""Training of the associative recall model."""
