#!/bin/sh
# Before maintenance of a server.
sed -i 's/server 10.2.0.21:8001.*/server 10.2.0.21:8001 down;/' upstream.conf
nginx -p . -c nginx.conf -s reload
