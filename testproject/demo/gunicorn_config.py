"""What the demo's gunicorn needs beyond its command line."""

worker_class = "gthread"
capture_output = True
timeout = 60
graceful_timeout = 5
# Also for a new connection, whose client may take its time on a busy machine.
keepalive = 30
# Newer gunicorns put one into the home folder; older ones do not know the setting.
control_socket_disable = True
