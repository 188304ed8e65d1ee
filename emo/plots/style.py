"""The colours that figures share."""

TRAIN, VAL, GOOD, BAD = "#4c72b0", "#dd8452", "#2e8b57", "#c0392b"
