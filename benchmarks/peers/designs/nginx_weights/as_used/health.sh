#!/bin/sh
# Every 30 s: asks each Triton whether it is ready. One that is not, three times in a row, is left
# out of upstream.conf until it is.
mkdir -p failures

servers() {
    echo "upstream triton {"
    for server in 10.2.0.21:3 10.2.0.22:2 10.2.0.23:2; do
        host=${server%:*}
        [ "$(cat "failures/$host")" -ge 3 ] || echo "    server $host:8001 weight=${server#*:};"
    done
    echo "}"
}

while :; do
    for host in 10.2.0.21 10.2.0.22 10.2.0.23; do
        if curl -fsS -m 5 -o /dev/null "http://$host:8000/v2/health/ready"; then
            echo 0 > "failures/$host"
        else
            echo $(($(cat "failures/$host" 2> /dev/null || echo 0) + 1)) > "failures/$host"
        fi
    done
    servers > upstream.new
    if [ ! -e maintenance ] && ! cmp -s upstream.new upstream.conf && grep -q server upstream.new; then
        echo "$(date +%T) new upstreams"
        mv upstream.new upstream.conf
        nginx -p . -c nginx.conf -s reload
    fi
    sleep 30
done
