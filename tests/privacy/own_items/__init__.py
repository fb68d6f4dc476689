"""Items of users, by their dotted paths."""
