"""`python -m tools.bench` is `make bench`."""

from tools.bench.speed import main

main()
