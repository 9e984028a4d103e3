"""The gate stage: what proving and judging a candidate costs, with warm and with cold embeddings."""
