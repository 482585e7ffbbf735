"""Span attention on a GPU: a schedule made of a plan (`schedule.py`), Triton kernels that run it (`kernels.py`)."""
