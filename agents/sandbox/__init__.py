"""Where commands run that a model wrote: one protocol, and what enforces it."""
