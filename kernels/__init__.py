"""What trainer and edge must agree on: the signal front end, the bundle and the engines that run it."""
