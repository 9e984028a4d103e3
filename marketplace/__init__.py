"""The simulated marketplace: seeded, streaming, stepped; it answers decisions as people would."""
