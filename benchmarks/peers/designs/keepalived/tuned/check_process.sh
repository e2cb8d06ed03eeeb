#!/bin/sh
# Is there a tritonserver?
kill -0 "$(cat /run/triton/tritonserver.pid)"
