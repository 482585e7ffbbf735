"""Process reward models: steps with verdicts, as data, and two kinds of heads that learn to give them."""
