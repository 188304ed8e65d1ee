"""What is the network? Networks, their augmentation layer, and the files they are saved in."""
