#!/bin/sh
# Before maintenance of a server, on that server.
consul maint -enable -service=triton-0 -reason=maintenance
