"""kodkod in an editor: the agent's side of the Agent Client Protocol."""
