"""What all settings are made of: the base model, readable names, one reader of YAML, one translator of mistakes."""
