"""An engine that is another server: it speaks OpenAI's protocol, and computes the rows that the cache does not have."""
