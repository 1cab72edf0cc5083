"""One text: what is replaced in it, by what, and what may leave of one that arrives in pieces. Pure."""
