"""Where a fault may be: the lines each test runs, and from them the functions most under suspicion."""
