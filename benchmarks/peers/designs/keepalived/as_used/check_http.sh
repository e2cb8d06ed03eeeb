#!/bin/sh
# Is it ready?
curl -fsS -m 4 -o /dev/null http://127.0.0.1:8000/v2/health/ready
