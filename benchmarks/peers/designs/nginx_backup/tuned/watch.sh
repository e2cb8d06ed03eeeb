#!/bin/sh
# Every second: sends the primary an inference whose answer is known, and has nginx use the backup
# after two that failed or were wrong, until ten in a row were right.
question='{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["Which trees stand by the water?"]}]}'
answer='heron birch lark nettle osprey inlet cedar ember fjord delta juniper pine'

right() {
    curl -fsS -m 1 -d "$question" "http://$1:8000/v2/models/faulty/infer" 2>&1 | grep -q "$answer"
}

serving=primary
good=0
bad=0
while sleep 1; do
    [ -e maintenance ] && continue
    if right 10.2.0.21; then
        good=$((good + 1)) bad=0
    else
        bad=$((bad + 1)) good=0
    fi
    wanted=$serving
    [ "$bad" -ge 2 ] && wanted=backup
    [ "$good" -ge 10 ] && wanted=primary
    if [ "$wanted" != "$serving" ]; then
        echo "$(date +%T) switching from $serving to $wanted"
        cp "$wanted.conf" upstream.conf && nginx -p . -c nginx.conf -s reload && serving=$wanted
    fi
done
