"""The commands of `nca-fast`: each a dataclass whose fields are its options, and whose `run` prints what it did."""
