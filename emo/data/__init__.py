"""What do the photos hold? Reading, checking and splitting photos; it knows no network."""
