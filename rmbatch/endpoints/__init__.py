"""Several HTTP servers used as one: the client, one server's state, the balancer."""
