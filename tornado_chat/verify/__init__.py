"""`tornado-chat verify`: every promise, tried from the outside on a whole installation while it is harmed."""
