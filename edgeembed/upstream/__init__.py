"""An engine that is another server: it speaks OpenAI's protocol, and computes what our cache does not have."""
