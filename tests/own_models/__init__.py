"""Models of the tests' own, as a user would write them."""
