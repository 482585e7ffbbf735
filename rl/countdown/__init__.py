"""The shipped Countdown model: its language's training documents, its tokenizer, training, export."""
