"""Gates: measures of a candidate's evidence against the release contract, and the verdicts they give."""
