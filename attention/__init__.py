"""Span attention: exact attention over views of paged KV segments."""

from .plan import AttentionPlan, Group
from .span import Impl, span_attention
from .store import rope_and_store

__all__ = ["AttentionPlan", "Group", "Impl", "rope_and_store", "span_attention"]
