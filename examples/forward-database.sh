#!/bin/sh
# Two services behind a managed node on local ports, for programs that cannot use a ProxyCommand.
# Run it, then connect to 127.0.0.1:15432 (a database) and 127.0.0.1:18022 (port 22 of the node itself).
# Ctrl-C ends both. Each forward is one session, shared by all connections to its port.
exec ssm-bridge forward --profile team-a i-0123456789abcdef0 \
  15432:db.internal:5432 \
  18022:22
