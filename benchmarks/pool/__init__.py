"""How many workers a load needs: `simulation` lets jobs queue for a pool, `size` is the command."""
