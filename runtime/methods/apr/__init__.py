from .method import APR as APR
