#!/bin/sh
# See switchover.sh.
[ ! -e /etc/keepalived/maintenance ]
