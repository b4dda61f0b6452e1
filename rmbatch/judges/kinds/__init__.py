"""The kinds of judges: what each asks, and how votes become scores."""
