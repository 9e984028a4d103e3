"""The pipeline step `bundle`."""
