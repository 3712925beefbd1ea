"""tornado_chat: a realtime chat server that loses, doubles and reorders nothing."""
