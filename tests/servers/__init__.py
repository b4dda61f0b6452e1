"""Real servers on loopback that tests ask: chat, batch, S3, vLLM."""
