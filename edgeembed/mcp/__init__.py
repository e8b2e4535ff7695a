"""A server of the Model Context Protocol: coding agents embed, rerank, and search the folders of this machine."""
