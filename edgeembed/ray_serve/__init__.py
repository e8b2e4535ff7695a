"""Replicas of the daemon on a Ray cluster, by Ray Serve: an ingress passes requests on, and repeats them."""
