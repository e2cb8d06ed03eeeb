#!/bin/sh
# Before maintenance of a server. health.sh leaves nginx alone while the file `maintenance` exists.
touch maintenance
sed -i '/10.2.0.21/d' upstream.conf
nginx -p . -c nginx.conf -s reload
