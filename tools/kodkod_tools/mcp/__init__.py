"""Tools of MCP servers: programs that a person or a trusted project names, started and asked on the host."""
