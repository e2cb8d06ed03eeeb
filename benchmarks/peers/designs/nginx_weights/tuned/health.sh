#!/bin/sh
# Every second: sends each Triton an inference whose answer is known. One that failed or was wrong,
# twice in a row, is left out of upstream.conf until it is right.
question='{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["Which trees stand by the water?"]}]}'
answer='heron birch lark nettle osprey inlet cedar ember fjord delta juniper pine'
mkdir -p failures

right() {
    curl -fsS -m 1 -d "$question" "http://$1:8000/v2/models/faulty/infer" 2>&1 | grep -q "$answer"
}

servers() {
    echo "upstream triton {"
    echo "    zone triton 64k;"
    for server in 10.2.0.21:3 10.2.0.22:2 10.2.0.23:2; do
        host=${server%:*}
        [ "$(cat "failures/$host")" -ge 2 ] ||
            echo "    server $host:8001 weight=${server#*:} max_fails=1 fail_timeout=5s;"
    done
    echo "    keepalive 64;"
    echo "    keepalive_requests 1000000;"
    echo "}"
}

while :; do
    for host in 10.2.0.21 10.2.0.22 10.2.0.23; do
        if right "$host"; then
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
    sleep 1
done
