"""The engine's forward pass on a GPU: `ops.py` (what surrounds attention), `stack.py` (whole steps as CUDA graphs)."""
