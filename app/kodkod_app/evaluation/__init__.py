"""Tool use, measured: worlds, users, what must be so in the end. `kodkod eval SUITE`."""
