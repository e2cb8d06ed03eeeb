#!/bin/sh
# Every 30 s: asks each Triton whether it is ready, and restarts one that is not.
while :; do
    for host in 10.2.0.21 10.2.0.22; do
        if ! curl -fsS -m 5 -o /dev/null "http://$host:8000/v2/health/ready"; then
            echo "$(date +%T) restarting Triton on $host"
            ssh "$host" systemctl restart tritonserver
        fi
    done
    sleep 30
done
