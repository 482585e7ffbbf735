"""GRPO over threads: rollouts of any method on the live model, credit for each of their threads, one loss."""
