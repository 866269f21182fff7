"""What leaves the house: the finished graph, the package and the report."""
