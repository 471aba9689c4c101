# Processes and threads share the store.
workers = 2
threads = 4
# Started before the workers are forked; a store that was opened by then goes on in each of them.
preload_app = False
timeout = 60
graceful_timeout = 20
# Memory that leaks elsewhere goes with its worker; sessions stay.
max_requests = 10_000
max_requests_jitter = 1_000
