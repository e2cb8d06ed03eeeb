#!/bin/sh
# Consul's check: is the answer to a known question right? 1 would be a warning, with which Consul's
# DNS still returns the server.
# https://developer.hashicorp.com/consul/docs/v1.9.x/discovery/checks
question='{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["Which trees stand by the water?"]}]}'
answer='heron birch lark nettle osprey inlet cedar ember fjord delta juniper pine'
curl -fsS -m 0.9 -d "$question" http://127.0.0.1:8000/v2/models/faulty/infer | grep -q "$answer" || exit 2
