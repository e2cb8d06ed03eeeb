"""The Envoys: their ADS streams, what they acknowledged and report, and their admin interfaces.

May import `publication`, `ads`, `config`, `catalog` and `metrics`.
Start with `envoy_streams.py`; `ads_service.py` serves the streams, `drain_status.py` judges
drains.
"""
