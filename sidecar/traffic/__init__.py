"""Traffic policies: how the requests of a service are spread over its instances. Pure.

It may import `registry`, `consul`, `runtime` and `v1`, but nothing of xDS, election or settings.
Start with policy.py, the policy as values; document.py reads and writes it as JSON.
"""
