"""How good is it? Figures with their intervals on labelled photos, and the files that report them."""
