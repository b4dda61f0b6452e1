"""Where rows come from and where they go: storage, formats, units and the ledger. Knows nothing of rewards."""
