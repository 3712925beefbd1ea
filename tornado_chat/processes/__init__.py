"""The processes of one installation: the parent that holds the sockets, its workers, what they tell each other."""
