"""SWE-bench (arXiv 2310.06770): issues of real repositories, and tests that show whether a patch resolves them."""
