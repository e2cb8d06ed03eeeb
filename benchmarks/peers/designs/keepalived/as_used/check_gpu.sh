#!/bin/sh
# Does the GPU answer?
nvidia-smi --query-gpu=name --format=csv,noheader > /dev/null
