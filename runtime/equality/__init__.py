"""When are two answers the same? What votes and grading share.

- `tex`, `commands`, `characters`: one form for what TeX sets the same.
- `numbers`: exact values of numbers, without any library.
- `worker` and `process`: math-verify in a process that can be stopped.
- `mathematics`: the equality `math` of both; `registry`: equalities by name.
"""
