#!/bin/sh
# Before maintenance of the primary. watch.sh leaves nginx alone while the file `maintenance` exists.
touch maintenance
cp backup.conf upstream.conf && nginx -p . -c nginx.conf -s reload
