#!/bin/sh
# Every 30 s: asks the primary whether it is ready, and has nginx use the backup while it is not.
serving=primary
while :; do
    if [ ! -e maintenance ]; then
        if curl -fsS -m 5 -o /dev/null http://10.2.0.21:8000/v2/health/ready; then
            wanted=primary
        else
            wanted=backup
        fi
        if [ "$wanted" != "$serving" ]; then
            echo "$(date +%T) switching from $serving to $wanted"
            cp "$wanted.conf" upstream.conf && nginx -p . -c nginx.conf -s reload && serving=$wanted
        fi
    fi
    sleep 30
done
