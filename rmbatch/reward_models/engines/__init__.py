"""What runs a reward model: vLLM, transformers, or servers that run already."""
