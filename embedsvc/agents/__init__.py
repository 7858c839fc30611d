"""Collections as tools of agents, over the Model Context Protocol (MCP): what the tools do (:mod:`.tools`), where they
look (:mod:`.shelves`), and who is answered how (:mod:`.server`, which alone needs the SDK, extra ``mcp``)."""
