"""Hostile inputs for everything that reads bytes from outside: `make fuzz`, and a small seeded run among the tests."""
