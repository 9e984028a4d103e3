"""The folder that Feast reads."""
