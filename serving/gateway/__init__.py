"""The gateway: the upload gate's HTTP API. It authenticates, records, asks the predictor, judges and answers."""
