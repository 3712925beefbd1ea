"""`python -m tornado_chat` is the command `tornado-chat`."""

import sys

from tornado_chat.cli import main

sys.exit(main())
