"""The critic: twin Q and V heads on frozen features, their objectives, and the training loop."""
