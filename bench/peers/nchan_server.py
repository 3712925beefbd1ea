"""The peer "Nchan": nginx with that module, which is its own broker; one worker.

python nchan_server.py NGINX MODULE FOLDER PORT      # /ws broadcasts any text to all of one room, with /events in it

NGINX is the program, MODULE the path of ngx_nchan_module.so, FOLDER takes its files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_timeout 1h;
    nchan_message_buffer_length 1000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        nchan_subscriber_first_message newest;
        location = /ws {{ nchan_pubsub websocket; nchan_channel_id room; }}
        location = /events {{ nchan_subscriber eventsource; nchan_channel_id room; }}
    }}
}}
"""

if __name__ == "__main__":
    nginx, module, folder, port = sys.argv[1:]
    Path(folder, "nginx.conf").write_text(CONFIGURATION.format(module=module, port=port))
    os.execv(nginx, [nginx, "-p", folder, "-c", "nginx.conf", "-e", "stderr"])
