"""One file a published table, and the demo: rows that a test shrinks with `smoke()` and runs."""
