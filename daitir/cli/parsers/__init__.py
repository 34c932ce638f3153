"""The arguments of the commands of `daitir`, a function for the parser of each."""
