"""Span attention: exact attention over views of paged KV segments."""
