"""The gates' self-test: candidates of known quality go through the real gates, and every gate must tell them apart."""
