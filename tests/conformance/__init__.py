"""What a correct remover does to small graphs, worked out by hand: one data table for our tests and for every peer."""
