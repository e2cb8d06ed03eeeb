#!/bin/sh
# Every second: sends each Triton an inference whose answer is known. After two that failed or were
# wrong, takes it out of nginx and restarts it, at most once a minute; puts it back when it is right.
question='{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["Which trees stand by the water?"]}]}'
answer='heron birch lark nettle osprey inlet cedar ember fjord delta juniper pine'
mkdir -p bad restarted

right() {
    curl -fsS -m 1 -d "$question" "http://$1:8000/v2/models/faulty/infer" 2>&1 | grep -q "$answer"
}

mark() { # mark HOST '' | mark HOST ' down'
    sed "s/\(server $1:8001 max_fails=1 fail_timeout=5s\).*/\1$2;/" upstream.conf > upstream.new
    cmp -s upstream.new upstream.conf && return
    echo "$(date +%T) $1$2"
    mv upstream.new upstream.conf
    nginx -p . -c nginx.conf -s reload
}

restart() {
    last=$(cat "restarted/$1" 2> /dev/null || echo 0)
    now=$(date +%s)
    [ $((now - last)) -lt 60 ] && return
    echo "$now" > "restarted/$1"
    echo "$(date +%T) restarting Triton on $1"
    ssh "$1" systemctl restart tritonserver &
}

while sleep 1; do
    [ -e maintenance ] && continue
    for host in 10.2.0.21 10.2.0.22; do
        if right "$host"; then
            echo 0 > "bad/$host"
            mark "$host" ''
        else
            bad=$(($(cat "bad/$host" 2> /dev/null || echo 0) + 1))
            echo "$bad" > "bad/$host"
            [ "$bad" -ge 2 ] && mark "$host" ' down' && restart "$host"
        fi
    done
done
