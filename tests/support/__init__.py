"""What tests share: fakes, rigs, generators and fixtures. No test module is imported by another.

These modules may import anything from `sidecar`, and no test module. Start with `consul_model.py`
(the one fake Consul), `virtual_clock.py` (the one virtual clock) and `fake_triton.py`.
"""
