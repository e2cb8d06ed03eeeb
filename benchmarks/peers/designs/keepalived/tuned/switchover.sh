#!/bin/sh
# Before maintenance of this host: within two seconds it gives the address away.
touch /etc/keepalived/maintenance
