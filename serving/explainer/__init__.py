"""The explainer: why a bundle scored a listing as it did, on a reviewer's request; its own process, and torch's."""
