"""The making of nano: faults, packages, transcripts and shards it learns from."""
